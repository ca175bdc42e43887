"""Every form of model and goal ends with a release: ONNX without training data, .pt2, and "fit into N bytes"."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from leanloop.bundle.owner_code import import_object
from leanloop.core.contracts import Artifacts, Benchmark, Verdict
from leanloop.pipelines.launch import Run
from tests.e2e.conftest import ROOT, Owner, digits_document, new_owner

pytestmark = pytest.mark.e2e

DIGITS = ROOT / "examples/digits"


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = new_owner(tmp_path / "owner")
    for name in ("model.py", "data.py", "digits.safetensors"):
        shutil.copy(DIGITS / name, owner.folder)
    yield owner
    if (owner.folder / "params.yaml").exists():
        owner.leanloop("serve", "down", check=False)


def digits_net() -> torch.nn.Module:
    net = import_object("model:digits_net", DIGITS)()
    net.load_state_dict(safetensors.torch.load_file(DIGITS / "digits.safetensors"))
    return net.eval()  # type: ignore[no-any-return]


def run(owner: Owner, document: dict[str, Any]) -> Run:
    owner.write(document)
    owner.leanloop("run")
    return Run(next((owner.folder / "workspace/runs").iterdir()))


def quick(owner: Owner, **optimize: Any) -> dict[str, Any]:
    document: dict[str, Any] = digits_document(owner.ports)
    document["optimize"] |= {"budget_minutes": 0.3, "workers": 1} | optimize
    document["benchmark"] |= {"blocks": 4}
    return document


def test_onnx_without_training_data_and_labels(owner: Owner) -> None:
    torch.onnx.export(
        digits_net(),
        (torch.zeros(2, 1, 8, 8),),
        owner.folder / "digits.onnx",
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    load = import_object("data:load", DIGITS)
    arrays = {}
    for split in ("calibration", "validation", "test"):
        images, _ = load(split, owner.folder).tensors
        arrays[f"{split}/image"] = images.numpy()
    np.savez(owner.folder / "data.npz", **arrays)
    document = quick(owner, techniques=["channel_pruning", "distillation", "ort_static_int8"])
    document["model"] |= {"file": "digits.onnx", "factory": None, "code": []}
    document |= {"data": {"source": "data.npz"}, "metric": "agreement"}
    finished = run(owner, document)
    artifacts = Artifacts.load(finished.step_folder("convert"))
    for technique in ("channel_pruning", "distillation"):
        assert "post-training" in artifacts.left_out[technique]
    assert "post-training" in (finished.step_folder("deploy") / "report.html").read_text()
    assert finished.release().version in (1, 2)
    assert Verdict.load(finished.step_folder("select")).test_metric["original"] == 1.0


def test_pt2(owner: Owner) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(digits_net(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, owner.folder / "digits.pt2")
    document = quick(owner, techniques=["channel_pruning", "openvino_bf16"])
    document["model"] |= {"file": "digits.pt2", "factory": None, "code": ["data.py"]}
    finished = run(owner, document)
    assert finished.release().version in (1, 2)
    assert "channel_pruning" in Artifacts.load(finished.step_folder("convert")).left_out


def test_a_size_and_memory_goal_is_met(owner: Owner) -> None:
    document = quick(owner, techniques=["channel_pruning", "distillation", "ort_static_int8"], budget_minutes=0.4)
    document["goal"] |= {"minimise": "size", "max_size_bytes": 90_000, "max_memory_bytes": 200 << 20}
    finished = run(owner, document)
    release = finished.release()
    benchmark = Benchmark.load(finished.step_folder("benchmark"))
    served = benchmark.variant(release.artifact_id)
    assert release.version == 2
    assert served.size_bytes <= 90_000
    assert served.peak_memory_bytes <= 200 << 20


def test_an_impossible_size_is_refused_with_the_smallest_that_keeps_the_accuracy(owner: Owner) -> None:
    document = quick(owner, techniques=["ort_static_int8", "channel_pruning", "distillation"], max_trials=1)
    document["goal"] |= {"minimise": "size", "max_size_bytes": 3_000}
    finished = run(owner, document)
    verdict = Verdict.load(finished.step_folder("select"))
    assert verdict.winner is None
    assert "smallest" in verdict.reason
    assert finished.release().version == 1
    assert finished.release().artifact_id == "original-onnxruntime-fp32"
