"""Threads and streams are chosen by measurement, batch size by batch size, and answers stay what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanloop.benchmark import call_plans, with_plans
from leanloop.benchmark.call_plans import plans_of
from leanloop.bundle import Bundle
from leanloop.convert import onnx_model_files, openvino_model_files
from leanloop.core.contracts import CallPlan, ModelFiles
from leanloop.runtime import Session, open_session
from tests.mixed_model import mixed, mixed_onnx

__all__ = ["mixed", "mixed_onnx"]


def plan(threads: int, streams: int = 1) -> CallPlan:
    return CallPlan(threads=threads, streams=streams)


def files(runtime: str, onnx: Path, folder: Path) -> tuple[ModelFiles, Path]:
    if runtime == "openvino":
        return openvino_model_files(onnx, folder, "fp32"), folder
    return onnx_model_files(onnx, "fp32"), onnx.parent


@pytest.mark.parametrize(
    ("runtime", "batch", "threads", "wanted"),
    [
        ("onnxruntime", 32, 1, []),
        ("openvino", 32, 1, []),
        ("onnxruntime", 32, 4, [plan(2), plan(1)]),
        ("openvino", 1, 4, [plan(2), plan(1)]),
        ("openvino", 32, 4, [plan(2), plan(1), plan(4, 4), plan(4, 2)]),
        ("openvino", 6, 4, [plan(2), plan(1), plan(4, 2)]),
        ("openvino", 3, 3, [plan(1), plan(3, 3)]),
        ("pytorch", 32, 4, []),
    ],
)
def test_fewer_threads_and_more_streams_are_tried(
    runtime: str, batch: int, threads: int, wanted: list[CallPlan]
) -> None:
    assert plans_of(runtime, batch, threads) == wanted


def test_what_is_clearly_faster_is_kept_for_its_batch_size(
    mixed: Bundle, mixed_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {(1, 1, 1): 0.7, (8, 1, 1): 0.97, (8, 2, 2): 0.96, (32, 1, 1): 1.9, (32, 2, 2): 0.8}

    def ratio(session: Session, usual: Session, inputs: dict[str, np.ndarray], **measured: float) -> float:
        assert session.description == usual.description
        return times[tried.pop(0)]

    def opened(files: ModelFiles, *arguments: Any, **further: Any) -> Session:
        usual_ones.extend([files] if not files.plans else [])
        return open_session(files, *arguments, **further)

    tried, usual_ones = list(times), list[ModelFiles]()
    monkeypatch.setattr(call_plans, "open_session", opened)
    monkeypatch.setattr(call_plans, "quick_ratio", ratio)
    model, folder = files("openvino", mixed_onnx, tmp_path)
    found = with_plans(model, folder, mixed.samples, [1, 8, 32], threads=2)
    assert found.plans == {1: plan(1), 32: plan(2, 2)}
    assert not tried
    assert len(usual_ones) == 1, "the usual session is opened once"
    assert ModelFiles.model_validate_json(found.model_dump_json()) == found
    assert with_plans(found, folder, mixed.samples, [1, 8, 32], threads=1).plans == {}, "nothing is left to choose"
    assert (found.plan_of(1, 2), found.plan_of(8, 2)) == (plan(1), plan(2))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_plan_is_measured_and_changes_no_answer(
    runtime: str, mixed: Bundle, mixed_onnx: Path, tmp_path: Path
) -> None:
    model, folder = files(runtime, mixed_onnx, tmp_path)
    measured = with_plans(model, folder, mixed.samples, [4], threads=2)
    assert set(measured.plans) <= {4}
    plans = {1: plan(1), 4: plan(2, 2) if runtime == "openvino" else plan(1)}
    session = open_session(
        model.model_copy(update={"plans": plans}), folder, threads=2, bundle=mixed, batch_sizes=(1, 4)
    )
    usual = open_session(model, folder, threads=2, bundle=mixed, batch_sizes=(1, 4))
    for batch in (1, 3, 4):
        rows = {name: values[:batch] for name, values in mixed.samples.items()}
        session.bound(rows)()
        wanted = usual.run(rows)
        given = session.run(rows)
        assert given.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_allclose(given[name], values, atol=1e-5)
    session.close()
    usual.close()
