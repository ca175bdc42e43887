"""Which operators a target runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from leanloop.analyze.coverage import COVERAGE, operator_coverage
from leanloop.convert import TARGETS, Target
from leanloop.core.contracts import ModelFiles
from leanloop.optimize.techniques.ort_dynamic_int8 import OrtDynamicInt8Config, quantise
from leanloop.optimize.techniques.ort_static_int8 import integer_share
from leanloop.runtime.profile.onnxruntime import profile_onnxruntime
from tests.analyze.conftest import chain

EXAMPLES = runpy.run_path(str(Path(__file__).parents[2] / "examples/kinds/model.py"))

LAYERS = {"a": np.ones((4, 4), np.float32), "b": np.ones((4, 4), np.float32)}


@pytest.mark.parametrize("target", sorted(COVERAGE))
def test_a_known_model_is_covered(target: str, saved: Path) -> None:
    onnx.save(chain(LAYERS, 4), saved)
    found = COVERAGE[target](saved)
    assert found.supported
    assert found.unsupported == ()
    assert 2 <= found.quantisable <= found.operators
    assert "2 MatMul" in found.note


@pytest.mark.parametrize("target", sorted(COVERAGE))
def test_an_operator_that_nobody_knows_is_named(target: str, saved: Path) -> None:
    onnx.save(chain(LAYERS, 4, domain="acme", last="Frobnicate"), saved)
    found = COVERAGE[target](saved)
    assert not found.supported
    assert found.unsupported == ("acme.Frobnicate",)
    assert "acme.Frobnicate has no" in found.note


def test_a_contributed_operator_is_onnx_runtimes_own(saved: Path) -> None:
    onnx.save(chain(LAYERS, 4, domain="com.microsoft", last="CDist"), saved)
    (found,) = operator_coverage(saved, ["onnxruntime"])
    assert found.supported
    onnx.save(chain(LAYERS, 4, domain="com.microsoft", last="NoSuchThing"), saved)
    (found,) = operator_coverage(saved, ["onnxruntime"])
    assert found.unsupported == ("com.microsoft.NoSuchThing",)


def test_a_target_that_is_not_installed_says_so(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "can_run", lambda self: f"{self.name} is not installed")
    assert set(COVERAGE) == set(TARGETS)
    for found in operator_coverage(saved, sorted(TARGETS)):
        assert not found.supported
        assert found.note == f"{found.target} is not installed."


def test_a_recurrent_layer_is_integer_work_only_where_it_runs_so(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 8, 8)
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        EXAMPLES["recurrent"]().eval(),
        (images,),
        saved,
        input_names=["images"],
        dynamic_shapes=batch,
        external_data=False,
        verbose=False,
    )
    (tmp_path / "int8").mkdir()
    quantised = quantise(saved, tmp_path / "int8", OrtDynamicInt8Config(), None)
    in_float = ModelFiles(
        runtime="onnxruntime", precision="fp32", main=saved.name, files=(saved.name,), size_bytes=saved.stat().st_size
    )
    for file, folder, kind, precision in (
        (in_float, tmp_path, "LSTM", "fp32"),
        (quantised, tmp_path / "int8", "DynamicQuantizeLSTM", "int8"),
    ):
        inputs = {"images": images.numpy()}
        kernels = profile_onnxruntime(file, folder, inputs, threads=1, seconds=0.01)
        heavy = [kernel for kernel in kernels if kernel.role == "compute"]
        found = [kernel for kernel in heavy if kernel.kind == kind]
        assert [kernel.precision for kernel in found] == [precision] * len(found)
        assert found
        share = sum(kernel.precision == "int8" for kernel in heavy) / len(heavy)
        assert integer_share(folder / file.main) == share
    assert integer_share(saved) == 0.0
    assert integer_share(tmp_path / "int8/model.onnx") == 1.0
    (covered,) = operator_coverage(saved, ["onnxruntime"])
    assert covered.supported
    assert "LSTM" in covered.note
    (covered,) = operator_coverage(tmp_path / "int8/model.onnx", ["onnxruntime"])
    assert covered.supported
