from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization.calibrate import load_tensors_data

from leanloop.bundle import Split
from leanloop.optimize.techniques.ort_static_int8 import measure_ranges


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 2), np.eye(2, dtype=np.float32).ravel())
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 2))],
        [weight],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize("calibration", ["minmax", "percentile"])
@pytest.mark.parametrize("extreme", [0, 50, 99])
def test_every_chunk_counts(model: Path, calibration: str, extreme: int, tmp_path: Path) -> None:
    # ONNX Runtime's own chunks keep only the last one; the extreme value lies in the first, a middle or the last.
    values = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
    values[extreme] = (-10, 8)
    measure_ranges(model, tmp_path / "ranges.json", Split("calibration", {"x": values}, None), calibration, tmp_path)
    low, high = _range(tmp_path / "ranges.json", "x")
    assert low == pytest.approx(-10, rel=0.02)
    assert high == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize("small_first", [True, False])
def test_entropy_counts_early_and_late_chunks(model: Path, small_first: bool, tmp_path: Path) -> None:
    """Most samples are large, and come in other chunks than the small ones: the range is theirs, whoever is first."""
    rng = np.random.default_rng(0)
    small, large = rng.uniform(-0.1, 0.1, (64, 2)), rng.uniform(-1, 1, (1600, 2))
    values = np.concatenate([small, large] if small_first else [large, small]).astype(np.float32)
    measure_ranges(model, tmp_path / "ranges.json", Split("calibration", {"x": values}, None), "entropy", tmp_path)
    low, high = _range(tmp_path / "ranges.json", "x")
    assert -1.1 < low < -0.6
    assert 0.6 < high < 1.1


def _range(path: Path, tensor: str) -> tuple[float, float]:
    low, high = load_tensors_data(path)[tensor].range_value
    return float(np.min(low)), float(np.max(high))
