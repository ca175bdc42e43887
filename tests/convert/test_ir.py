"""A compacted graph is read as the same model: of every kind of network, in fp32, in 16 bits and in INT8."""

from __future__ import annotations

import runpy
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leanloop.convert.ir import compact
from leanloop.convert.openvino import load_graph
from tests.optimize import kinds

openvino = pytest.importorskip("openvino")
nncf = pytest.importorskip("nncf")

EXAMPLES = runpy.run_path(str(Path(__file__).parents[2] / "examples/kinds/model.py"))

NETWORKS: list[Callable[[], nn.Module]] = [
    EXAMPLES["depthwise"],
    kinds.grouped,
    kinds.branches,
    kinds.shared,
    kinds.perceptron,
    EXAMPLES["vision_transformer"],
    EXAMPLES["recurrent"],
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_answers_and_the_interface_stay(network: Callable[[], nn.Module], precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 1, 8, 8)
    torch.onnx.export(
        network().eval(),
        (images[:2],),
        tmp_path / "model.onnx",
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    model = load_graph(tmp_path / "model.onnx")
    if precision == "int8":
        model = nncf.quantize(model, nncf.Dataset([images[:8].numpy()]), subset_size=1)
    plain, small = tmp_path / "plain.xml", tmp_path / "small.xml"
    openvino.save_model(model, plain, compress_to_fp16=precision == "fp16")
    small.write_text(compact(plain.read_text()))
    shutil.copyfile(plain.with_suffix(".bin"), small.with_suffix(".bin"))
    assert small.stat().st_size < 0.7 * plain.stat().st_size

    core = openvino.Core()
    before, after = core.read_model(plain), core.read_model(small)
    for which in ("inputs", "outputs"):
        ports = [
            [(port.get_names(), str(port.partial_shape), port.element_type) for port in getattr(one, which)]
            for one in (before, after)
        ]
        assert ports[0] == ports[1]
    # The same graph but for constants that were there twice: all inferred shapes and types are as they were written.
    assert _operators(before) == _operators(after)
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    for batch in (1, 5):
        answers = [
            np.asarray(core.compile_model(one, "CPU", config)(images[:batch].numpy())[0]) for one in (before, after)
        ]
        np.testing.assert_array_equal(*answers)


def _operators(model: openvino.Model) -> list[tuple[str, str, str]]:
    found = [
        (op.get_type_name(), str(op.get_output_partial_shape(0)), str(op.get_output_element_type(0)))
        for op in model.get_ops()
        if op.get_type_name() not in ("Constant", "Result")
    ]
    return sorted(found)


LOOP = (
    '<net name="m"><layers><layer id="0" type="Loop"><body><layers><layer id="0" name="x" type="Const">'
    '<data offset="0"/><output><port id="0"><dim>1</dim></port></output></layer></layers></body></layer></layers>'
    "\n  <edges/>\n</net>"
)


def test_a_graph_with_a_loop_keeps_all_but_its_spaces() -> None:
    assert "<dim>1</dim>" not in compact(LOOP.replace("body", "other"))
    root = ElementTree.fromstring(compact(LOOP))
    assert root.find(".//dim") is not None
    assert "\n" not in compact(LOOP)
