"""The step that checks what the search found, and chooses how it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leanloop.benchmark import call_plans
from leanloop.bundle import Bundle
from leanloop.core.contracts import Artifacts, CallPlan, Candidates, LeftAlone, TrialRow
from leanloop.core.settings import Settings, parse_settings
from leanloop.core.workspace import with_absolute_paths
from leanloop.optimize import TECHNIQUES, Recipe, all_rows
from leanloop.runtime import Session
from leanloop.steps import convert
from tests.mixed_model import MixedProject, mixed

__all__ = ["mixed"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "project").mkdir()
    document = MixedProject(tmp_path / "project").document
    goal = {"threads": 2, "batch_size": 4}
    found = parse_settings({**document, "goal": goal, "targets": ["onnxruntime"]}, source="test")
    return with_absolute_paths(found, tmp_path)


ROW = TrialRow(
    trial=0,
    recipe=Recipe("onnxruntime").record(),
    candidate_id="a",
    state="failed",
    rung="latency",
    latency_ms=None,
    metric=None,
    size_bytes=None,
    seconds=1.0,
    reason="",
)


def worker(bundle: Bundle, number: int, folder: Path, *left_alone: LeftAlone) -> Path:
    """The folder of a worker that found nothing; each brings the same failure."""
    Candidates(
        bundle_digest=bundle.manifest.digest,
        worker=number,
        candidates=(),
        trials=(ROW,),
        left_out={"student": "There is none."},
        left_alone=left_alone,
    ).save(folder / str(number))
    return folder / str(number)


def test_what_two_workers_brought_is_listed_once(mixed: Bundle, tmp_path: Path) -> None:
    """A worker that took long to start again was taken for dead; another brought its rows, too."""
    first, second = ROW.model_copy(update={"candidate_id": "b"}), ROW.model_copy(update={"trial": 1})
    found = Candidates.load(worker(mixed, 0, tmp_path))
    heir = found.model_copy(update={"trials": (ROW, first, ROW, second)})
    again = found.model_copy(update={"trials": (first, second, first.model_copy(update={"trial": 2}))})
    rows = [(one.trial, one.candidate_id) for one in all_rows([heir, again])]
    assert rows == [(0, "a"), (0, "b"), (0, "a"), (1, "a"), (2, "b")], "of one worker all lines count"


def test_plans_are_chosen_for_the_batch_sizes_that_are_served(
    mixed: Bundle, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def ratio(session: Session, usual: Session, inputs: dict[str, Any], **limits: float) -> float:
        measured.append(len(inputs["image"]))
        assert session.run(inputs).keys() == usual.run(inputs).keys()
        return 0.5 if len(inputs["image"]) == 4 else 0.99

    monkeypatch.setattr(call_plans, "quick_ratio", ratio)
    told = LeftAlone(technique="channel_pruning", parts=("head",), reason="it would break")
    workers = [worker(mixed, 0, tmp_path, told), worker(mixed, 1, tmp_path, told)]
    convert.run(settings, bundle=mixed.folder, candidates=workers, artifacts=tmp_path / "artifacts")
    found = Artifacts.load(tmp_path / "artifacts")
    assert settings.served_batch_sizes == (1, 4)
    assert set(measured) == {1, 4}, "those that are only measured go the usual way"
    planned = [artifact.model for artifact in found.artifacts if artifact.model.runtime == "onnxruntime"]
    assert planned
    assert all(model.plans == {4: CallPlan(threads=1)} for model in planned)
    assert all((tmp_path / "artifacts" / one.id / one.model.main).exists() for one in found.artifacts)

    assert found.trials == (ROW,), "what two workers brought is listed once"
    assert found.left_alone == (told,)
    assert set(found.not_asked_for) == set(TECHNIQUES) - set(settings.optimize.techniques)
    assert found.untried()["not asked for"] == ", ".join(found.not_asked_for)
