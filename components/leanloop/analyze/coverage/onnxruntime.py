"""ONNX Runtime: its own list of CPU kernels, and its quantiser's list of operators with INT8 kernels."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import onnx
import onnx.inliner

from leanloop.analyze.coverage.checks import COVERAGE, describe
from leanloop.core.contracts import OperatorCoverage

_STANDARD = ("", "ai.onnx")

_DYNAMIC_ONLY = ("LSTM",)
"""Operators with INT8 kernels for ranges that are measured on every call, and with no others."""


@COVERAGE.register("onnxruntime")
def onnxruntime_coverage(file: Path) -> OperatorCoverage:
    """Look every operator of an ONNX file up among ONNX Runtime's CPU kernels, at the file's opset."""
    from onnxruntime.quantization.registry import QLinearOpsRegistry

    model = onnx.inliner.inline_local_functions(onnx.load(file, load_external_data=False))
    opsets = {"" if entry.domain in _STANDARD else entry.domain: entry.version for entry in model.opset_import}
    kernels = _kernels()
    unsupported: dict[str, str] = {}
    for node in model.graph.node:
        domain = "" if node.domain in _STANDARD else node.domain
        name = f"{domain}.{node.op_type}" if domain else node.op_type
        if not _has_kernel(node.op_type, domain, opsets.get(domain, 1), kernels):
            unsupported[name] = f"{name} has no CPU kernel at opset {opsets.get(domain, 1)}"
    quantisers = {*QLinearOpsRegistry, *_DYNAMIC_ONLY}
    quantisable = [node.op_type for node in model.graph.node if node.op_type in quantisers]
    return OperatorCoverage(
        target="onnxruntime",
        supported=not unsupported,
        operators=len(model.graph.node),
        quantisable=len(quantisable),
        unsupported=tuple(unsupported),
        note=describe(quantisable, list(unsupported.values())),
    )


def _kernels() -> dict[tuple[str, str], list[tuple[int, int]]]:
    from onnxruntime.capi import onnxruntime_pybind11_state

    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for kernel in onnxruntime_pybind11_state.get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            found[kernel.domain, kernel.op_name].append(kernel.version_range)
    return found


def _has_kernel(kind: str, domain: str, opset: int, kernels: dict[tuple[str, str], list[tuple[int, int]]]) -> bool:
    # A kernel names the operator versions that it implements; an operator with a function body is decomposed.
    since = opset
    if onnx.defs.has(kind, domain):
        schema = onnx.defs.get_schema(kind, opset, domain)
        if schema.has_function or schema.has_context_dependent_function:  # type: ignore[attr-defined]
            return True
        since = schema.since_version
    return any(first <= since <= last for first, last in kernels.get((domain, kind), ()))
