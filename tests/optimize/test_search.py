"""The search as a whole: real workers as processes on the digits example."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch

from leanloop.bundle import Bundle, pack
from leanloop.core.contracts import Analysis, Candidate, Candidates, TrialRow
from leanloop.core.errors import (
    SettingsError,
)
from leanloop.core.events import read_events
from leanloop.core.settings import GoalSettings, Settings, parse_settings
from leanloop.core.store import Store
from leanloop.optimize import Recipe, finalists, holds, rebuild, search_worker
from leanloop.optimize.candidate import replay
from leanloop.optimize.pulse import Pulse
from leanloop.optimize.search import charged
from leanloop.optimize.space import make_space
from leanloop.optimize.study import ask, open_study, store_url
from leanloop.optimize.warm_start import recall
from tests.optimize.conftest import EXAMPLE
from tests.optimize.workers import start_worker, trial_row


@pytest.fixture(scope="module")
def found(bundle: Bundle, small: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two workers on one study, one of them killed in the middle of its first trial and started again."""
    root = tmp_path_factory.mktemp("search")
    events = root / "events.jsonl"
    workers = [start_worker(bundle, small, root, worker, events) for worker in range(2)]
    deadline = time.monotonic() + 300
    while not any(event["kind"] == "trial_finished" for event in read_events(events)[0]):
        assert time.monotonic() < deadline, "no trial ended"
        time.sleep(0.1)
    os.kill(workers[1].pid, signal.SIGKILL)
    workers[1].wait()
    workers[1] = start_worker(bundle, small, root, 1, events)
    assert [worker.wait(300) for worker in workers] == [0, 0]
    return [root / "0", root / "1"]


def _rows(folders: list[Path]) -> list[TrialRow]:
    return [row for folder in folders for row in Candidates.load(folder).trials]


def test_candidates_hold_the_accuracy_and_are_whole(found: list[Path], bundle: Bundle) -> None:
    rows = _rows(found)
    assert any(holds(row) and Recipe.from_record(row.recipe).trains for row in rows)
    for folder in found:
        for identity in Candidates.load(folder).candidates:
            candidate = Candidate.load(folder / identity)
            assert candidate.id == identity
            assert candidate.metric > 0.9
            assert candidate.size_bytes == sum(
                (folder / identity / name).stat().st_size for name in candidate.model.files
            )
            assert "call.json" in (folder / identity / "reproduce.sh").read_text()
            assert rebuild(folder / identity, bundle) is not None


def test_a_killed_worker_repeats_nothing_that_was_finished(found: list[Path]) -> None:
    rows = [row for row in _rows(found) if row.state == "complete"]
    identities = [row.candidate_id for row in rows]
    assert len(identities) == len(set(identities))
    trials = {(row.trial, Recipe.from_record(row.recipe).torch) for row in _rows(found)}
    assert len({torch for _, torch in trials}) == len(trials), "two trials had the same shape and training"


def test_other_weights_of_the_same_network_begin_where_the_last_search_ended(
    found: list[Path], bundle: Bundle, small: Settings, tmp_path: Path
) -> None:
    held = [row for row in _rows(found) if holds(row) and Recipe.from_record(row.recipe).trains]
    assert held, "the searches before found a shape that bears"
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "retrained"))
    weights = safetensors.torch.load_file(folder / "digits.safetensors")
    safetensors.torch.save_file(
        {name: value * 1.0001 if value.is_floating_point() else value for name, value in weights.items()},
        folder / "digits.safetensors",
    )
    pack(small, folder, tmp_path / "bundle")
    other = Bundle(tmp_path / "bundle")
    assert other.manifest.digest != bundle.manifest.digest
    space, store = make_space(other, small), Store(store_url(small))
    study = open_study(small, space, other.manifest.digest)
    strength = recall(study, space, other, small.goal, store)
    strongest = max(space.shapes["channel_pruning"].index(Recipe.from_record(row.recipe).torch[:1]) + 1 for row in held)
    assert strength == strongest
    queue = [trial.system_attrs["fixed_params"] for trial in study.get_trials()]
    assert [params["strength"] for params in queue][:3] == [0, strongest, strongest + 1][: len(queue)]
    ask(study, space, 0)
    assert recall(study, space, other, small.goal, store) is None, "only a new study is told"
    assert recall(study, space, other, small.goal.model_copy(update={"max_accuracy_drop": 0.5}), store) is None


def test_the_study_knows_the_pareto_front_of_what_holds(found: list[Path], bundle: Bundle, small: Settings) -> None:
    study = open_study(small, make_space(bundle, small), bundle.manifest.digest)
    assert study.metric_names == ["latency_ms", "metric_drop", "size_bytes"]
    holding = {row.trial: row for row in _rows(found) if holds(row)}
    front = study.best_trials
    assert front
    assert {trial.number for trial in front} <= set(holding)
    for trial in front:
        mine = trial.values
        assert mine[1] <= 0.1, "digits: what holds is not far from the original"
        rivals = [other.values for other in study.trials if other.number in holding and other.number != trial.number]
        assert not any(all(a <= b for a, b in zip(its, mine, strict=True)) and its != mine for its in rivals)


def test_what_was_finished_is_taken_from_the_store(
    found: list[Path], bundle: Bundle, small: Settings, tmp_path: Path
) -> None:
    before = Candidates.load(found[0])
    started = time.time()
    again = search_worker(bundle, Analysis.model_construct(metric=1.0, sensitivity=()), small, tmp_path / "again", 0)
    assert again == before
    written = [
        Path(small.workspace) / "store" / "candidates" / identity / "candidate.json" for identity in again.candidates
    ]
    assert all(path.stat().st_mtime < started for path in written)


def test_the_first_living_worker_brings_what_a_dead_one_had_finished(
    found: list[Path], bundle: Bundle, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pulse, "dead", lambda self, workers: {1})
    heir = search_worker(bundle, Analysis.model_construct(metric=1.0, sensitivity=()), small, tmp_path / "heir", 0)
    both = [Candidates.load(folder) for folder in found]
    assert set(heir.candidates) == {*both[0].candidates, *both[1].candidates}
    assert len(heir.trials) == len(both[0].trials) + len(both[1].trials)
    monkeypatch.setattr(Pulse, "dead", lambda self, workers: {0})
    heir = search_worker(bundle, Analysis.model_construct(metric=1.0, sensitivity=()), small, tmp_path / "other", 1)
    assert len(heir.trials) == len(both[0].trials) + len(both[1].trials)


def test_shapes_are_timed_before_they_are_trained(found: list[Path]) -> None:
    events, _ = read_events(found[0].parent / "events.jsonl")
    rungs = [(event["trial"], event["rung"]) for event in events if event["kind"] == "trial_rung"]
    trained = {trial for trial, rung in rungs if rung == "short"}
    assert trained
    for trial in trained:
        assert rungs.index((trial, "latency")) < rungs.index((trial, "short"))


def test_progress_is_told(found: list[Path]) -> None:
    events, _ = read_events(found[0].parent / "events.jsonl")
    kinds = {event["kind"] for event in events}
    assert {"trial_started", "trial_rung", "training", "trial_finished", "progress"} <= kinds
    assert all(event["done"] <= event["total"] for event in events if event["kind"] == "progress")


def test_finalists_are_ranked_and_hold_a_post_training_one(found: list[Path], small: Settings) -> None:
    chosen = finalists(found, small)
    assert len(chosen) <= small.optimize.finalists + 1
    assert len({one.candidate.id for one in chosen}) == len(chosen)
    assert any(not Recipe.from_record(one.candidate.recipe).torch for one in chosen)
    assert any(not row.recipe.techniques for row in _rows(found))
    assert all(one.candidate.recipe.techniques for one in chosen)
    good = {row.candidate_id for row in _rows(found) if holds(row)}
    fastest = min(row.latency_ms or 0.0 for row in _rows(found) if holds(row) and row.recipe.techniques)
    assert chosen[0].candidate.id in good
    assert chosen[0].candidate.latency_ms == fastest


def test_a_candidate_can_be_made_again(found: list[Path], bundle: Bundle) -> None:
    folder = next(folder for folder in found if Candidates.load(folder).candidates)
    identity = Candidates.load(folder).candidates[0]
    candidate = Candidate.load(folder / identity)
    again = replay(str(bundle.folder), candidate.recipe.model_dump(mode="json"), GoalSettings().model_dump(), 1)
    assert again["candidate"] == identity
    assert again["metric"] == pytest.approx(candidate.metric, abs=0.003)


def test_the_log_tells_all_that_a_trial_took_once(found: list[Path]) -> None:
    assert [row.seconds for row in charged((trial_row(1.0), trial_row(2.0)), 10.0)] == [8.0, 2.0]
    events, _ = read_events(found[0].parent / "events.jsonl")
    took = {event["trial"]: event["seconds"] for event in events if event["kind"] == "trial_finished"}
    told: dict[int, float] = {}
    for row in _rows(found):
        told[row.trial] = told.get(row.trial, 0.0) + row.seconds
    assert told == pytest.approx({trial: took[trial] for trial in told}, rel=0.05, abs=0.5)


def test_a_remote_store_needs_a_database(bundle: Bundle, small: Settings) -> None:
    document = small.model_dump(mode="json")
    document["store"]["url"] = "memory://store"
    remote = parse_settings(document, source="test")
    with pytest.raises(SettingsError, match=r"optimize\.storage"):
        open_study(remote, make_space(bundle, remote), bundle.manifest.digest)
