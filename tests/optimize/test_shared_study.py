"""Two workers on a study in a real PostgreSQL; one is killed and never comes back."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from leanloop.bundle import Bundle
from leanloop.core.contracts import Candidates
from leanloop.core.errors import StoreError
from leanloop.core.events import read_events
from leanloop.core.settings import Settings, parse_settings
from leanloop.optimize.plan import DUPLICATE
from leanloop.optimize.sampler import STATUS, point_of
from leanloop.optimize.space import make_space
from leanloop.optimize.study import WORKER, open_study
from tests.optimize.workers import start_worker
from tests.postgresql import postgresql


@pytest.fixture(scope="module")
def shared(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a search that ends by itself, long before its budget, with its study in the database."""
    document = settings.model_dump(mode="json")
    document["workspace"] = str(tmp_path_factory.mktemp("workspace"))
    document["targets"] = ["onnxruntime"]
    with postgresql() as url:
        document["optimize"] |= {
            "techniques": ["channel_pruning", "distillation", "ort_static_int8"],
            "max_trials": 40,
            "budget_minutes": 12,
            "storage": url,
        }
        yield parse_settings(document, source="test")


def test_no_trial_is_lost_or_doubled(shared: Settings, bundle: Bundle, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    workers = [start_worker(bundle, shared, tmp_path, worker, events) for worker in range(2)]
    deadline = time.monotonic() + 400
    while True:
        told = [event for event in read_events(events)[0] if "trial" in event]
        ended = {event["trial"] for event in told if event["kind"] == "trial_finished"}
        begun = {event["trial"] for event in told if event["kind"] == "trial_rung"}
        under_way = {event["trial"] for event in told if event.get("worker") == 1} & begun - ended
        if ended and under_way:
            break
        assert workers[1].poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    os.kill(workers[1].pid, signal.SIGKILL)
    workers[1].wait()
    assert workers[0].wait(700) == 0

    study = open_study(shared, make_space(bundle, shared), bundle.manifest.digest)
    trials = study.get_trials()
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert {trial.number for trial in lost} == under_way
    done = [t for t in trials if t.state != TrialState.FAIL and t.user_attrs.get(STATUS) != DUPLICATE]
    points = Counter(point_of(trial) for trial in done)
    assert max(points.values()) == 1, "a trial was done twice"
    again = [trial for trial in done if point_of(trial) == point_of(lost[0])]
    assert [trial.user_attrs[WORKER] for trial in again] == [0]

    found = Candidates.load(tmp_path / "0")
    rows = Counter((row.trial, row.candidate_id) for row in found.trials)
    assert max(rows.values()) == 1
    assert {row.trial for row in found.trials} == {trial.number for trial in done}
    assert all((tmp_path / "0" / identity / "candidate.json").exists() for identity in found.candidates)


_PLAYED = """
import functools, time
from leanloop.core.errors import TrialError
from leanloop.optimize import Recipe, search, study
from leanloop.optimize.plan import FAILS, Outcome

search.Pulse = functools.partial(search.Pulse, beat_seconds=0.2, dead_after_seconds=3.0)
trials = []

def played(child, job, plan):
    trials.append(job.trial)
    if not {quick} or len(trials) > 1:
        while not Path({go!r}).exists():
            time.sleep(0.05)
        study.Clock.left = lambda self: 0.0
    recipe = Recipe.from_record(plan.groups[0][0])
    row = search.failed_row(recipe, Bundle(Path(job.bundle)), job.trial, 0.1, TrialError("as played"))
    return Outcome(status=FAILS, rows=(row,))

search.run_plan = played
"""


def test_what_a_killed_worker_had_finished_is_kept_where_the_budget_ends_the_search(
    shared: Settings, bundle: Bundle, tmp_path: Path
) -> None:
    """It dies during the other's last trial, after which nobody looks for it again but at the very end."""
    document = shared.model_dump(mode="json")
    document["optimize"]["seed"] += 1  # a study of its own
    settings, events, go = parse_settings(document, source="test"), tmp_path / "events.jsonl", tmp_path / "go"
    workers = [
        start_worker(bundle, settings, tmp_path, worker, events, _PLAYED.format(quick=worker == 1, go=str(go)))
        for worker in range(2)
    ]
    deadline = time.monotonic() + 120
    while True:
        told = [(event["kind"], event.get("worker")) for event in read_events(events)[0]]
        if ("trial_finished", 1) in told and ("trial_started", 0) in told:
            break
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    os.kill(workers[1].pid, signal.SIGKILL)
    workers[1].wait()
    go.touch()
    assert workers[0].wait(120) == 0
    trials = open_study(settings, make_space(bundle, settings), bundle.manifest.digest).get_trials()
    finished = {trial.number: trial.user_attrs[WORKER] for trial in trials if trial.state == TrialState.PRUNED}
    assert set(finished.values()) == {0, 1}
    assert {row.trial for row in Candidates.load(tmp_path / "0").trials} == set(finished)


def test_a_wrong_database_is_told(shared: Settings, bundle: Bundle) -> None:
    document = shared.model_dump(mode="json")
    document["optimize"]["storage"] = "postgresql://leanloop@127.0.0.1:1/none"
    nowhere = parse_settings(document, source="test")
    with pytest.raises(StoreError, match="cannot be used"):
        open_study(nowhere, make_space(bundle, nowhere), bundle.manifest.digest)
