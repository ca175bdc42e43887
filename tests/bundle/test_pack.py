"""Packing: what an owner brings, and each way in which it can be wrong."""

from __future__ import annotations

import importlib
import io
import pickle
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

from leanloop.bundle import Bundle, pack
from leanloop.core.errors import BundleError, DataError, LeanloopError
from tests.conftest import Project


def packed(project: Project) -> Bundle:
    destination = project.folder.parent / "bundle"
    pack(project.settings, project.folder, destination)
    return Bundle(destination)


@pytest.mark.parametrize("form", ["factory", "pt", "onnx", "pt2", "npz"])
def test_every_form_of_model_and_data_is_packed_and_read_without_the_project(project: Project, form: str) -> None:
    if form == "pt":
        torch.save(project.net().state_dict(), project.folder / "tiny.pt")
        project.document["model"]["file"] = "tiny.pt"
    elif form != "factory":
        getattr(project, f"use_{form}")()
    bundle = packed(project)
    shutil.rmtree(project.folder)
    validation = bundle.split("validation")
    assert bundle.manifest.splits["validation"].samples == len(validation)
    assert bundle.samples["x"].shape[1:] == (6,)
    assert bundle.trainable == (form in {"factory", "pt", "npz"})
    if bundle.has_module:
        outputs = bundle.predict(bundle.module(), validation)
        assert outputs["logits"].shape == (len(validation), 3)
        assert 0 <= bundle.score(outputs, validation) <= 1


def test_digest_depends_on_content_only(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # as on an owner's machine
    first = pack(project.settings, project.folder, project.folder.parent / "a")
    time.sleep(1.1)  # bytecode holds whole seconds
    again = pack(project.settings, project.folder, project.folder.parent / "b")
    assert first.digest == again.digest
    with (project.folder / "data.py").open("a") as stream:
        stream.write("\n# changed\n")
    assert pack(project.settings, project.folder, project.folder.parent / "c").digest != first.digest


def test_two_bundles_with_modules_of_one_name_do_not_mix(
    make_project: Callable[[str], Project],
) -> None:
    bundles = []
    for name in ("one", "two"):
        project = make_project(name)
        text = (project.folder / "model.py").read_text()
        (project.folder / "model.py").write_text(f"{text}\nORIGIN = {name!r}\n")
        destination = project.folder.parent / f"{name}-bundle"
        pack(project.settings, project.folder, destination)
        bundles.append(Bundle(destination))
    origins = [bundle.owner_object("model:build").__globals__["ORIGIN"] for bundle in bundles]
    assert origins == ["one", "two"]


def test_large_data_travel_by_reference_and_a_later_change_is_told(project: Project) -> None:
    project.use_npz()
    project.document["data"]["inline_bytes"] = 0
    bundle = packed(project)
    assert not bundle.manifest.files[0].inline
    assert not list((bundle.folder / "data").iterdir())
    assert len(bundle.split("train")) == 32
    with (project.folder / "data.npz").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match="changed since"):
        Bundle(bundle.folder).split("train")


def call_here(function: str, arguments: dict[str, Any], **_: Any) -> Any:
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def bad_missing(project: Project) -> None:
    (project.folder / "tiny.safetensors").unlink()


def bad_truncated(project: Project) -> None:
    truncate(project.folder / "tiny.safetensors")


def bad_truncated_onnx(project: Project) -> None:
    project.use_onnx()
    truncate(project.folder / "tiny.onnx")


def bad_keys(project: Project) -> None:
    (project.folder / "model.py").write_text((project.folder / "model.py").read_text().replace("self.head", "self.top"))


def bad_factory(project: Project) -> None:
    with (project.folder / "model.py").open("a") as stream:
        stream.write("\ndef build():\n    raise ValueError('no GPU here')\n")


def bad_nan(project: Project) -> None:
    net = project.net()
    with torch.no_grad():
        net.head.bias[0] = float("nan")  # type: ignore[union-attr]
    safetensors.torch.save_file(net.state_dict(), project.folder / "tiny.safetensors")


def bad_pickle(project: Project) -> None:
    torch.save(torch.nn.Linear(6, 3), project.folder / "tiny.pt")
    project.document["model"]["file"] = "tiny.pt"


def bad_shape(project: Project) -> None:
    project.use_npz(validation__x=np.zeros((32, 7), np.float32))


def bad_dtype(project: Project) -> None:
    project.use_npz(train__x=np.zeros((32, 6), np.float64))


def bad_empty(project: Project) -> None:
    project.use_npz(test__x=np.zeros((0, 6), np.float32), test__target=np.zeros(0, np.int64))


def bad_label(project: Project) -> None:
    project.use_npz(validation__target=np.full(32, 3))


def bad_nan_data(project: Project) -> None:
    project.use_npz(train__x=np.full((32, 6), np.nan, np.float32))


def bad_outputs(project: Project) -> None:
    project.document["model"]["outputs"] = ["logits", "extra"]


def bad_import(project: Project) -> None:
    (project.folder / "model.py").write_text("import helpers\n")


def bad_classes(project: Project) -> None:
    project.document["model"]["classes"] = ["one", "two"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad_missing, "model file is not there"),
        (bad_truncated, "weights cannot be read"),
        (bad_truncated_onnx, r"cannot be parsed|not valid"),
        (bad_keys, "missing top.bias, top.weight; unexpected head.bias, head.weight"),
        (bad_factory, "no GPU here"),
        (bad_nan, "NaN or infinity"),
        (bad_pickle, "weights cannot be read"),
        (bad_shape, r"another shape[\s\S]*\(7,\)"),
        (bad_dtype, r"another type[\s\S]*float64"),
        (bad_empty, "split is empty"),
        (bad_label, r"out of range[\s\S]*0 to 2"),
        (bad_nan_data, "holds NaN"),
        (bad_outputs, "another number of outputs"),
        (bad_import, "helpers"),
        (bad_classes, "as many class names"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    project: Project, spoil: Callable[[Project], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process: the child costs seconds, and other tests pack through it.
    # By its module, since the package exports a function of the same name.
    monkeypatch.setattr(sys.modules[pack.__module__], "run_limited", call_here)
    spoil(project)
    with pytest.raises((BundleError, DataError), match=message):
        packed(project)
    assert not (project.folder.parent / "bundle").exists()
    assert [path.name for path in project.folder.parent.iterdir()] == ["project"]


def test_pt2_with_pickled_objects_needs_trust(project: Project) -> None:
    project.use_pt2()
    payload = io.BytesIO()
    pickle.dump(Path, payload)
    with zipfile.ZipFile(project.folder / "tiny.pt2", "a") as archive:
        archive.writestr("tiny/data/constants/extra.pt", payload.getvalue())
    with pytest.raises(BundleError, match="trust"):
        packed(project)


def test_onnx_external_data_outside_is_refused(project: Project) -> None:
    project.use_onnx()
    model = onnx.load(project.folder / "tiny.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    (project.folder / "tiny.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(LeanloopError, match="outside its folder"):
        packed(project)
