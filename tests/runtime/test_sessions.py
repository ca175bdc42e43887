"""What every runtime must do, on one model that has all types of inputs and two outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leanloop.bundle import Arrays, Bundle
from leanloop.convert import onnx_model_files, openvino_model_files
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import SettingsError, UnsupportedError
from leanloop.core.hardware import instruction_sets
from leanloop.runtime import RUNTIMES, open_session, predict


def files_for(runtime: str, onnx: Path, folder: Path) -> tuple[ModelFiles, Path]:
    match runtime:
        case "onnxruntime":
            return onnx_model_files(onnx, "fp32"), onnx.parent
        case "openvino":
            return openvino_model_files(onnx, folder, "fp32"), folder
        case "pytorch":
            return ModelFiles(runtime="pytorch", precision="fp32", main="", files=(), size_bytes=0), folder
    raise AssertionError(f"add the new runtime {runtime!r} here")


def rows(bundle: Bundle, count: int) -> Arrays:
    return {name: values[:count] for name, values in bundle.samples.items()}


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_session_answers_as_the_module_at_any_batch_size(
    runtime: str, mixed: Bundle, mixed_onnx: Path, tmp_path: Path
) -> None:
    model, folder = files_for(runtime, mixed_onnx, tmp_path)
    session = open_session(model, folder, threads=1, bundle=mixed, batch_sizes=(2,))
    for batch in (1, 2, 7):
        wanted = mixed.call(mixed.module(), rows(mixed, batch))
        given = session.run(rows(mixed, batch))
        assert {name: (values.shape, values.dtype) for name, values in given.items()} == {
            name: (values.shape, values.dtype) for name, values in wanted.items()
        }
        for name, values in wanted.items():
            np.testing.assert_allclose(given[name], values, atol=1e-5)
    assert session.description["threads"] == "1"
    session.close()


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_bound_call_runs_again_and_again_and_leaves_run_as_it_was(
    runtime: str, mixed: Bundle, mixed_onnx: Path, tmp_path: Path
) -> None:
    model, folder = files_for(runtime, mixed_onnx, tmp_path)
    session = open_session(model, folder, threads=1, bundle=mixed)
    before = session.run(rows(mixed, 5))
    one, five = session.bound(rows(mixed, 1)), session.bound(rows(mixed, 5))
    for _ in range(3):
        one()
        five()
    for name, values in session.run(rows(mixed, 5)).items():
        np.testing.assert_allclose(values, before[name], atol=1e-6)
    session.close()


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_predict_covers_the_whole_split_in_order(runtime: str, mixed: Bundle, mixed_onnx: Path, tmp_path: Path) -> None:
    model, folder = files_for(runtime, mixed_onnx, tmp_path)
    validation = mixed.split("validation")
    session = open_session(model, folder, threads=1, bundle=mixed)
    outputs = predict(session, validation, batch_size=7, outputs=["logits"])
    assert list(outputs) == ["logits"]
    np.testing.assert_allclose(outputs["logits"], mixed.predict(mixed.module(), validation)["logits"], atol=1e-5)
    session.close()


def test_openvino_answers_do_not_share_memory_between_calls(mixed: Bundle, mixed_onnx: Path, tmp_path: Path) -> None:
    model, folder = files_for("openvino", mixed_onnx, tmp_path)
    session = open_session(model, folder, threads=1)
    first = session.run(rows(mixed, 3))["logits"]
    kept = first.copy()
    session.run({name: values[3:6] for name, values in mixed.samples.items()})
    np.testing.assert_array_equal(first, kept)


def test_openvino_fp32_really_runs_in_f32(mixed_onnx: Path, tmp_path: Path) -> None:
    model = openvino_model_files(mixed_onnx, tmp_path, "fp32")
    for hints in (model.hints, {}):
        session = open_session(model.model_copy(update={"hints": hints}), tmp_path, threads=1)
        assert session.description["precision"] == "f32"


def test_openvino_bf16_runs_in_bf16_or_is_refused(mixed_onnx: Path, tmp_path: Path) -> None:
    model = openvino_model_files(mixed_onnx, tmp_path, "bf16")
    if instruction_sets() & {"amx_bf16", "avx512_bf16"}:
        assert open_session(model, tmp_path, threads=1).description["precision"] == "bf16"
    else:
        with pytest.raises(UnsupportedError, match="precision"):
            open_session(model, tmp_path, threads=1)


def test_openvino_fp16_runs_in_f16_or_is_refused(mixed_onnx: Path, tmp_path: Path) -> None:
    """A CPU with bf16 alone runs in bf16 what was asked for in f16, without a word."""
    model = openvino_model_files(mixed_onnx, tmp_path, "fp16")
    openvino_model_files(mixed_onnx, tmp_path / "whole", "fp32")
    half, whole = ((folder / "model.bin").stat().st_size for folder in (tmp_path, tmp_path / "whole"))
    assert half < 0.6 * whole
    if instruction_sets() & {"avx512_fp16", "asimdhp"}:
        assert open_session(model, tmp_path, threads=1).description["precision"] == "f16"
    else:
        with pytest.raises(UnsupportedError, match="instead of f16"):
            open_session(model, tmp_path, threads=1)


def test_openvino_refuses_when_another_precision_is_run_than_asked(
    mixed_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = openvino_model_files(mixed_onnx, tmp_path, "fp32")
    monkeypatch.setattr("leanloop.runtime.openvino._read_back", lambda compiled: {"precision": "bf16"})
    with pytest.raises(UnsupportedError, match="bf16 instead of f32"):
        open_session(model, tmp_path, threads=1)


@pytest.mark.parametrize("memory_format", ["auto", "contiguous", "channels_last"])
def test_pytorch_threads_are_given_back_on_close(memory_format: str, mixed: Bundle) -> None:
    model = ModelFiles(
        runtime="pytorch",
        precision="fp32",
        main="",
        files=(),
        size_bytes=0,
        hints={"memory_format": memory_format},
    )
    before = torch.get_num_threads()
    session = open_session(model, Path(), threads=before + 1, bundle=mixed)
    assert torch.get_num_threads() == before + 1
    session.bound(rows(mixed, 2))()
    session.close()
    assert torch.get_num_threads() == before


def test_pytorch_needs_the_bundle() -> None:
    model = ModelFiles(runtime="pytorch", precision="fp32", main="", files=(), size_bytes=0)
    with pytest.raises(UnsupportedError, match="bundle"):
        open_session(model, Path(), threads=1)


def test_an_unknown_runtime_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"onnxruntime, openvino, pytorch"):
        RUNTIMES["tflite"]
