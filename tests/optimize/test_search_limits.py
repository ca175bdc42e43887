"""What a search does at its limits: of time, memory and disk, and where a trial is lost."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from leanloop.bundle import Bundle
from leanloop.core.contracts import Analysis
from leanloop.core.errors import (
    ChildError,
    MemoryLimitError,
    StoreError,
    TimeLimitError,
    TrialError,
)
from leanloop.core.events import listening
from leanloop.core.settings import GoalSettings, Settings, parse_settings
from leanloop.core.store import Store
from leanloop.optimize import Recipe, Workshop, search_worker
from leanloop.optimize import search as search_module
from leanloop.optimize.candidate import fail, failed_before, finish_one
from leanloop.optimize.plan import NO_TIME, Job, Outcome, Plan
from leanloop.optimize.sampler import MARGIN, STATUS, point_of
from leanloop.optimize.space import make_space
from leanloop.optimize.study import open_study, release_dead
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config
from tests.optimize.workers import trial_row


def test_a_full_disk_is_not_held_against_a_recipe(bundle: Bundle, tmp_path: Path) -> None:
    workshop = Workshop(bundle, Store(str(tmp_path)), threads=1)
    recipe, job = Recipe("onnxruntime", (OrtStaticInt8Config(),)), _job(bundle, tmp_path)
    fail(recipe, job, workshop, StoreError("The disk is full; nothing was written."))
    fail(recipe, job, workshop, OSError(errno.ENOSPC, "No space left on device"))
    assert failed_before(recipe, job, workshop) is None
    fail(recipe, job, workshop, TrialError("The candidate answers NaN or infinity."))
    assert failed_before(recipe, job, workshop) == "failed before: The candidate answers NaN or infinity."


@pytest.mark.parametrize("kind", [TimeLimitError, MemoryLimitError])
def test_what_ran_into_a_limit_is_tried_again_where_it_is_given_more(
    kind: type[ChildError], bundle: Bundle, tmp_path: Path
) -> None:
    workshop = Workshop(bundle, Store(str(tmp_path)), threads=1)
    recipe, job = Recipe("onnxruntime", (OrtStaticInt8Config(),)), _job(bundle, tmp_path, seconds=60, memory=1 << 30)
    fail(recipe, job, workshop, kind("A child process exceeded a limit."))
    assert failed_before(recipe, job, workshop) == "failed before: A child process exceeded a limit."
    assert failed_before(recipe, _job(bundle, tmp_path, seconds=61, memory=1 << 30), workshop) is None
    assert failed_before(recipe, _job(bundle, tmp_path, seconds=60, memory=2 << 30), workshop) is None
    fail(recipe, job, workshop, ChildError("A child process died with exit status -11."))
    assert failed_before(recipe, _job(bundle, tmp_path, seconds=999, memory=9 << 30), workshop) is not None


def test_a_kept_candidate_is_timed_as_the_goal_has_it(bundle: Bundle, tmp_path: Path) -> None:
    """The store holds it from a run at batch 1; at batch 64 it takes many times as long."""
    recipe, rows = Recipe("onnxruntime"), []
    for batch_size in (1, 64, 1):
        job = _job(bundle, tmp_path, batch_size=batch_size)
        rows.append(finish_one(recipe, job, job.workshop()))
    first, larger, again = (row.latency_ms or 0.0 for row in rows)
    assert larger > 5 * first
    assert again == first
    assert len({row.candidate_id for row in rows}) == 1


@pytest.mark.parametrize("kind", [TimeLimitError, MemoryLimitError])
def test_a_training_that_ran_into_a_limit_says_nothing_of_the_accuracy(
    kind: type[ChildError], bundle: Bundle, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object) -> Outcome:
        raise kind("A child process exceeded a limit.")

    monkeypatch.setattr(search_module, "run_plan", too_much)
    settings = changed(small, workspace=tmp_path, optimize={"max_trials": 3, "workers": 1})
    search_worker(bundle, Analysis.model_construct(metric=1.0, sensitivity=()), settings, tmp_path / "out", 0)
    study = open_study(settings, make_space(bundle, settings), bundle.manifest.digest)
    assert {trial.user_attrs[STATUS] for trial in study.get_trials()} == {NO_TIME}


def test_a_trial_that_is_released_while_its_end_is_written_is_lost_and_the_search_goes_on(
    bundle: Bundle, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker took this one for dead in the moment before its trial's values are told."""
    note, lost = optuna.Trial.set_user_attr, list[int]()

    def released_after(trial: optuna.Trial, key: str, value: object) -> None:
        note(trial, key, value)
        if key == MARGIN and not lost:
            lost.append(trial.number)
            assert release_dead(trial.study, lambda _: True) == lost

    monkeypatch.setattr(optuna.Trial, "set_user_attr", released_after)
    monkeypatch.setattr(search_module, "run_plan", lambda *_: Outcome(status=NO_TIME, rows=(trial_row(),)))
    settings = changed(small, workspace=tmp_path, optimize={"max_trials": 3, "workers": 1})
    with listening("trial_lost") as heard, listening("study_begun_anew") as anew:
        search_worker(bundle, Analysis.model_construct(metric=1.0), settings, tmp_path / "out", 0)
        assert heard == [{"trial": lost[0]}]
        trials = open_study(settings, make_space(bundle, settings), bundle.manifest.digest).get_trials()
        assert [trial.state for trial in trials if trial.number in lost] == [TrialState.FAIL]
        assert [trial.number for trial in trials if point_of(trial) == point_of(trials[lost[0]])] == [lost[0], 1]
        assert anew == []
        settings = changed(settings, goal={"batch_size": 3})
        search_worker(bundle, Analysis.model_construct(metric=1.0), settings, tmp_path / "anew", 0)
        assert ["What differs: goal." in event["reason"] for event in anew] == [True]


def changed(settings: Settings, *, workspace: Path | None = None, **sections: dict[str, Any]) -> Settings:
    """Settings with other values in some sections, and another workspace where one is named."""
    document = settings.model_dump(mode="json")
    for section, values in sections.items():
        document[section] |= values
    if workspace is not None:
        document["workspace"] = str(workspace)
    return parse_settings(document, source="test")


def _job(bundle: Bundle, root: Path, *, batch_size: int = 1, seconds: float = 0.0, memory: int = 0) -> Job:
    return Job(
        bundle=str(bundle.folder),
        store=str(root / "store"),
        goal=GoalSettings(batch_size=batch_size),
        threads=1,
        trial=0,
        folder=str(root / "process"),
        timeout_seconds=seconds,
        memory_bytes=memory,
    )


def test_a_trial_is_ended_where_it_would_break_the_budget(
    bundle: Bundle, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twentieth over the budget is the most; what trains nothing has the trial's own limit."""
    asked: list[tuple[bool, float, float]] = []

    def note(_child: object, job: Job, plan: Plan) -> Outcome:
        recipe = Recipe.from_record(plan.groups[0][0])
        asked.append((bool(recipe.torch), job.timeout_seconds, plan.deadline - time.time()))
        return Outcome(status=NO_TIME, rows=(trial_row(),))

    monkeypatch.setattr(search_module, "run_plan", note)
    settings = changed(
        small,
        workspace=tmp_path,
        optimize={"max_trials": 3, "workers": 1, "budget_minutes": 5, "trial_timeout_seconds": 900.0},
    )
    search_worker(bundle, Analysis.model_construct(metric=1.0), settings, tmp_path / "out", 0)
    assert {timeout for reshapes, timeout, _ in asked if not reshapes} == {900.0}
    trained = [(timeout, deadline) for reshapes, timeout, deadline in asked if reshapes]
    assert trained
    for timeout, deadline in trained:
        assert timeout == pytest.approx(1.05 * 300, abs=5)
        assert deadline == pytest.approx(0.95 * 300, abs=5)


def test_no_time_means_no_training(bundle: Bundle, small: Settings, tmp_path: Path) -> None:
    hurried = changed(small, workspace=tmp_path, optimize={"budget_minutes": 0.01, "workers": 1})
    found = search_worker(bundle, Analysis.model_construct(metric=1.0, sensitivity=()), hurried, tmp_path / "out", 0)
    assert not any(Recipe.from_record(row.recipe).trains for row in found.trials if row.state == "complete")


@pytest.mark.parametrize(
    ("section", "key", "value"), [("goal", "batch_size", 1), ("optimize", "trial_timeout_seconds", 1_800.0)]
)
def test_another_goal_or_limit_is_another_study(
    section: str, key: str, value: float, bundle: Bundle, small: Settings
) -> None:
    other = changed(small, **{section: {key: value}})
    names = {
        open_study(one, make_space(bundle, one), bundle.manifest.digest).study_name for one in (small, other, small)
    }
    assert len(names) == 2
