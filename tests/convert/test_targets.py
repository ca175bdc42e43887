"""What every target must do: take the exported model, and answer as it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from leanloop.bundle import Bundle
from leanloop.convert import (
    TARGETS,
    Target,
    check_parity,
    compare,
    openvino_model_files,
    parity_samples,
)
from leanloop.core.contracts import Artifact
from leanloop.core.errors import ConversionError
from leanloop.core.hardware import instruction_sets
from leanloop.runtime import open_session, original_outputs


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_target_round_trips_the_model(name: str, mixed: Bundle, mixed_onnx: Path, tmp_path: Path) -> None:
    target = TARGETS[name]
    assert target.can_convert() is None
    assert target.can_run() is None
    model = target.convert(mixed_onnx, tmp_path, "fp32")
    assert model.main in model.files
    assert model.size_bytes == sum((tmp_path / file).stat().st_size for file in model.files)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(model.files)
    parity = check_parity(mixed, model, tmp_path, threads=1)
    assert parity.passed
    assert parity.batch_sizes[:3] == (1, 2, 7)
    assert parity.samples == sum(parity.batch_sizes) == len(parity_samples(mixed)["image"])


def test_openvino_graphs_are_folded_and_without_indentation(mixed_onnx: Path, tmp_path: Path) -> None:
    openvino_model_files(mixed_onnx, tmp_path, "fp32")
    text = (tmp_path / "model.xml").read_text()
    assert "> <" not in text.replace("\n", " ").replace("\t", " ")
    assert "Broadcast" not in text


def test_a_file_that_openvino_cannot_take_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ConversionError, match="OpenVINO cannot convert"):
        openvino_model_files(tmp_path / "model.onnx", tmp_path / "out", "fp32")


def test_a_target_says_which_extra_it_lacks() -> None:
    target = Target("far", extra="far", convert=openvino_model_files, run_needs=("no_such_library",))
    assert target.can_convert() is None
    assert target.can_run() == "no_such_library is not installed; install the extra: leanloop[far]"


@pytest.mark.skipif(not instruction_sets() & {"amx_bf16", "avx512_bf16"}, reason="this CPU has no bf16")
def test_bf16_halves_the_bytes_and_keeps_parity(mixed: Bundle, mixed_onnx: Path, tmp_path: Path) -> None:
    openvino_model_files(mixed_onnx, tmp_path / "fp32", "fp32")
    half = openvino_model_files(mixed_onnx, tmp_path / "bf16", "bf16")
    weights = [(tmp_path / precision / "model.bin").stat().st_size for precision in ("fp32", "bf16")]
    assert weights[1] < 0.6 * weights[0]
    assert check_parity(mixed, half, tmp_path / "bf16", threads=1).passed


def test_baselines_are_the_original_in_three_runtimes(mixed_baselines: tuple[list[Artifact], Path]) -> None:
    found, parent = mixed_baselines
    assert [artifact.id for artifact in found] == [
        "original-pytorch-fp32",
        "original-onnxruntime-fp32",
        "original-openvino-fp32",
    ]
    for artifact in found:
        assert artifact.parity.passed
        folder = parent / artifact.id
        assert sorted(file.name for file in folder.iterdir()) == sorted(artifact.model.files)
        assert artifact.model.size_bytes == sum(file.stat().st_size for file in folder.iterdir())
    session = open_session(found[2].model, parent / found[2].id, threads=1)
    assert session.description["precision"] == "f32"


def test_a_broken_conversion_fails_parity(mixed: Bundle, mixed_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(mixed_onnx)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.dims))
    broken = numpy_helper.to_array(weight) * 1.05
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    files = TARGETS["onnxruntime"].convert(tmp_path / "model.onnx", tmp_path / "out", "fp32")
    parity = check_parity(mixed, files, tmp_path / "out", threads=1)
    assert not parity.passed
    assert parity.max_abs_error > parity.limits["max_abs_error"]


def test_a_candidate_is_held_against_its_own_fp32_model(mixed: Bundle, mixed_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(mixed_onnx)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            noise = np.random.default_rng(0).normal(size=values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    session = open_session(
        TARGETS["onnxruntime"].convert(tmp_path / "model.onnx", tmp_path / "a", "fp32"), tmp_path / "a", threads=1
    )
    own = session.run(parity_samples(mixed))
    files = TARGETS["openvino"].convert(tmp_path / "model.onnx", tmp_path / "b", "fp32")
    assert check_parity(mixed, files, tmp_path / "b", threads=1, reference=own).passed
    assert "with the original: cosine" in check_parity(mixed, files, tmp_path / "b", threads=1, reference=own).note
    assert not check_parity(mixed, files, tmp_path / "b", threads=1).passed


def test_compare_reads_each_precision_by_its_own_limits(mixed: Bundle) -> None:
    original = original_outputs(mixed, mixed.split("validation"))
    rng = np.random.default_rng(0)
    near = {name: values * (1 + 0.02 * rng.normal(size=values.shape)) for name, values in original.items()}
    results = {
        precision: compare(near, original, precision=precision, classification=False)
        for precision in ("fp32", "bf16", "fp16", "int8")
    }
    assert {precision: parity.passed for precision, parity in results.items()} == {
        "fp32": False,
        "bf16": True,
        "fp16": False,
        "int8": True,
    }


def test_compare_refuses_nan_and_other_shapes(mixed: Bundle) -> None:
    original = original_outputs(mixed, mixed.split("validation"))
    spoiled = {name: values.copy() for name, values in original.items()}
    spoiled["score"][3] = np.nan
    with pytest.raises(ConversionError, match=r"NaN[\s\S]*score"):
        compare(spoiled, original, precision="fp32", classification=True)
    with pytest.raises(ConversionError, match=r"another shape[\s\S]*logits"):
        compare({"logits": original["logits"][:, :2]}, original, precision="fp32", classification=True)


def test_compare_of_equals_is_perfect(mixed: Bundle) -> None:
    original = original_outputs(mixed, mixed.split("validation"))
    parity = compare(original, original, precision="fp32", classification=True)
    assert (parity.max_abs_error, parity.top1_agreement, parity.passed) == (0.0, 1.0, True)
    assert parity.cosine == pytest.approx(1.0)
