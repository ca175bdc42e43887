"""OpenVINO: its ONNX frontend says what it converts, and its CPU plugin what it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from leanloop.analyze.coverage.checks import COVERAGE, describe
from leanloop.core.contracts import OperatorCoverage

if TYPE_CHECKING:
    import openvino

_INT8_KERNELS = {
    "Convolution", "GroupConvolution", "MatMul", "Add", "Multiply", "AvgPool", "MaxPool", "ReduceMean", "Interpolate",
    "MVN", "NormalizeL2", "LSTMSequence", "GRUSequence",
}  # fmt: skip
"""Operators that nncf's CPU setup quantises and that compute (nncf 3.4, common/hardware/setups/cpu.py)."""

_NO_WORK = {"Parameter", "Result", "Constant", "Convert"}


@COVERAGE.register("openvino")
def openvino_coverage(file: Path) -> OperatorCoverage:
    """Convert as much of an ONNX file as OpenVINO can, and ask the CPU plugin about the rest."""
    import openvino
    from openvino.frontend import FrontEndManager

    # A placeholder for an unknown operator reads the loaded file's memory, which therefore must live as long.
    manager = FrontEndManager()
    frontend = manager.load_by_framework("onnx")
    loaded = frontend.load(str(file))
    model = frontend.convert_partially(loaded)
    operators = [node for node in model.get_ordered_ops() if node.get_type_name() not in _NO_WORK]
    unconverted = _unconverted(operators, file)
    reasons = [f"{name} has no conversion rule" for name in unconverted]
    if not unconverted:
        runs = openvino.Core().query_model(model, "CPU")
        kinds = {node.get_type_name() for node in operators if node.get_friendly_name() not in runs}
        unconverted = sorted(kinds)
        reasons = [f"{name} has no CPU kernel" for name in unconverted]
    quantisable = [node.get_type_name() for node in operators if node.get_type_name() in _INT8_KERNELS]
    return OperatorCoverage(
        target="openvino",
        supported=not unconverted,
        operators=len(operators),
        quantisable=len(quantisable),
        unsupported=tuple(unconverted),
        note=describe(quantisable, reasons),
    )


def _unconverted(operators: list[openvino.Node], file: Path) -> list[str]:
    # A converted node bears the name of its ONNX node, or of that node's output.
    kinds: dict[str, str] = {}
    for node in onnx.load(file, load_external_data=False).graph.node:
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        kinds |= dict.fromkeys((node.name, *node.output), kind)
    unknown, failed = (
        {kinds.get(node.get_friendly_name(), node.get_friendly_name()) for node in operators if _is(node, placeholder)}
        for placeholder in ("ONNXFrameworkNode", "NotSupportedONNXNode")
    )
    # What follows an unknown operator fails too, for its input has no type: only the first cause is named.
    return sorted(unknown or failed)


def _is(node: openvino.Node, kind: str) -> bool:
    return bool(node.get_type_name() == kind)
