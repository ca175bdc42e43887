"""Two models whose right answers are known: `mixed`, and one with a layer that may be pruned and one that may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from leanloop.bundle import Bundle, pack
from leanloop.core.settings import Settings
from tests.conftest import Project
from tests.mixed_model import mixed, mixed_onnx

__all__ = ["mixed", "mixed_onnx"]

CLASSES = 8


def chain(layers: dict[str, np.ndarray], features: int, *, domain: str = "", last: str = "Identity") -> onnx.ModelProto:
    """Matrix products by name with ReLU between them, from ``x`` [batch, features] to ``logits``."""
    nodes, value = [], "x"
    for name in layers:
        nodes.append(helper.make_node("MatMul", [value, f"{name}.weight"], [name], name=f"node_{name}"))
        value = name
        if name != list(layers)[-1]:
            nodes.append(helper.make_node("Relu", [value], [f"{name}.relu"]))
            value = f"{name}.relu"
    nodes.append(helper.make_node(last, [value], ["logits"], domain=domain))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", list(layers.values())[-1].shape[1]])],
        [numpy_helper.from_array(weight, f"{name}.weight") for name, weight in layers.items()],
    )
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Settings]:
    """An ONNX bundle without training data that tells the largest of eight numbers.

    ``redundant`` gives every number twice, the second a little smaller, so that half of its channels can go;
    ``fragile`` passes each through one channel, so that every lost channel is a lost class.
    """
    folder = tmp_path_factory.mktemp("uneven")
    (folder / "project").mkdir()
    project = Project(folder / "project")
    once = np.eye(CLASSES, dtype=np.float32)
    layers = {"redundant": np.hstack([once, 0.9 * once]), "fragile": np.vstack([once, once]), "head": once}
    onnx.save(chain(layers, CLASSES), project.folder / "tiny.onnx")
    rng = np.random.default_rng(0)
    content: dict[str, np.ndarray] = {}
    for split in ("calibration", "validation", "test"):
        content[f"{split}/x"] = rng.uniform(size=(200, CLASSES)).astype(np.float32)
        content[f"{split}/target"] = content[f"{split}/x"].argmax(axis=1)
    np.savez(project.folder / "data.npz", **content)
    project.document["data"] = {"source": "data.npz"}
    project.document["model"] |= {
        "file": "tiny.onnx",
        "factory": None,
        "code": [],
        "inputs": [{"name": "x", "shape": [CLASSES]}],
    }
    pack(project.settings, project.folder, folder / "bundle")
    return Bundle(folder / "bundle"), project.settings


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Where a test puts an ONNX file."""
    return tmp_path / "model.onnx"
