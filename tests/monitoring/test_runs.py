"""Runs are written down first, started second; one at a time, within the policy, through every crash."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from sqlalchemy import Engine

from leanloop.core.errors import ServingError
from leanloop.core.launcher import RunRequest, RunState
from leanloop.core.settings import TriggerSettings
from leanloop.monitoring.lease import give_back_lease, take_lease
from leanloop.monitoring.runs import LEASE, LEASE_SECONDS, Runs

NOW = 1_000_000.0
POLICY = TriggerSettings(cooldown_minutes=10, daily_runs=3, rejections=2)


@dataclass
class FakeLauncher:
    """Stands for `leanloop.pipelines`: runs take minutes and a cluster's take hours."""

    states: dict[str, RunState] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)

    def start(self, request: RunRequest) -> None:
        self.started.append(request.id)
        self.states[request.id] = RunState(state="running")

    def look(self, run: str) -> RunState:
        return self.states.get(run, RunState(state="absent"))


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def runs(engine: Engine, launcher: FakeLauncher) -> Runs:
    return Runs(engine, launcher)


def finish(runs: Runs, launcher: FakeLauncher, state: str, *, now: float, cause: str = "drift") -> str:
    asked = runs.request("net", "re-optimise", "test", cause=cause, incident="i", now=now)
    runs.advance(now=now)
    launcher.states[asked.id] = RunState.model_validate({"state": state})
    (ended,) = runs.advance(now=now)
    assert ended.state == state
    return asked.id


def test_a_run_starts_once_and_its_end_is_told_once(runs: Runs, launcher: FakeLauncher) -> None:
    asked = runs.request("net", "re-optimise", "drift", cause="drift", incident="i", now=NOW)
    assert runs.advance(now=NOW) == ()
    assert runs.advance(now=NOW + 1) == ()
    assert launcher.started == [asked.id]
    launcher.states[asked.id] = RunState(state="released", version=3, artifact_digest="d")
    (ended,) = runs.advance(now=NOW + 2)
    assert (ended.state, ended.result and ended.result.version) == ("released", 3)
    assert runs.advance(now=NOW + 3) == ()
    assert runs.under_way() is None


def test_a_service_that_died_between_writing_and_starting_starts_it_later(
    engine: Engine, launcher: FakeLauncher
) -> None:
    asked = Runs(engine, launcher).request("net", "re-optimise", "drift", now=NOW)
    assert launcher.started == []
    Runs(engine, launcher).advance(now=NOW + 1)
    assert launcher.started == [asked.id]


def test_there_is_one_run_at_a_time(runs: Runs, launcher: FakeLauncher) -> None:
    first = runs.request("net", "re-optimise", "drift", now=NOW)
    with pytest.raises(ServingError, match=first.id):
        runs.request("other", "optimise", "by hand", now=NOW)
    with pytest.raises(ServingError, match=first.id):
        runs.request("other", "optimise", "its lease is over, its turn is not", now=NOW + 2 * LEASE_SECONDS)
    hindrance = runs.hindrance(POLICY, "other", "drift", now=NOW)
    assert hindrance is not None
    assert first.id in hindrance.reason


def test_a_run_whose_process_dies_is_started_again_once(runs: Runs, launcher: FakeLauncher) -> None:
    asked = runs.request("net", "re-optimise", "drift", now=NOW)
    runs.advance(now=NOW)
    for moment in (1, 2):
        launcher.states[asked.id] = RunState(state="died", detail="killed")
        ended = runs.advance(now=NOW + moment)
    assert launcher.started == [asked.id, asked.id]
    assert [entry.state for entry in ended] == ["failed"]
    assert ended[0].result == RunState(state="failed", detail="killed")


def test_after_a_run_comes_a_pause(runs: Runs, launcher: FakeLauncher) -> None:
    finish(runs, launcher, "released", now=NOW)
    hindrance = runs.hindrance(POLICY, "net", "drift", now=NOW + 60)
    assert hindrance is not None
    assert not hindrance.final
    assert "9 min left" in hindrance.reason
    assert runs.hindrance(POLICY, "net", "drift", now=NOW + 601) is None
    assert runs.hindrance(POLICY, "other", "drift", now=NOW + 60) is None


def test_so_many_runs_a_day(runs: Runs, launcher: FakeLauncher) -> None:
    for number in range(3):
        finish(runs, launcher, "released", now=NOW + 3600 * number)
    hindrance = runs.hindrance(POLICY, "net", "drift", now=NOW + 4 * 3600)
    assert hindrance is not None
    assert "3 runs in 24 hours" in hindrance.reason
    assert runs.hindrance(POLICY, "net", "drift", now=NOW + 25 * 3600) is None


def test_two_refusals_for_one_cause_end_it(runs: Runs, launcher: FakeLauncher) -> None:
    finish(runs, launcher, "refused", now=NOW)
    assert runs.hindrance(POLICY, "net", "drift", now=NOW + 3600) is None
    finish(runs, launcher, "failed", now=NOW + 3600)
    hindrance = runs.hindrance(POLICY, "net", "drift", now=NOW + 7200)
    assert hindrance is not None
    assert hindrance.final
    assert runs.hindrance(POLICY, "net", "another cause", now=NOW + 7200) is None


def test_a_release_in_between_forgives(runs: Runs, launcher: FakeLauncher) -> None:
    finish(runs, launcher, "refused", now=NOW)
    finish(runs, launcher, "released", now=NOW + 3600)
    finish(runs, launcher, "refused", now=NOW + 2 * 3600)
    assert runs.hindrance(POLICY.model_copy(update={"daily_runs": 9}), "net", "drift", now=NOW + 4 * 3600) is None


def test_repairs_can_be_switched_off(runs: Runs) -> None:
    hindrance = runs.hindrance(POLICY.model_copy(update={"automatic": False}), "net", "drift", now=NOW)
    assert hindrance is not None
    assert hindrance.final


def test_a_lease_has_one_holder_and_ends_by_itself(engine: Engine) -> None:
    assert take_lease(engine, LEASE, "a", now=NOW, seconds=10)
    assert not take_lease(engine, LEASE, "b", now=NOW + 10, seconds=10)
    assert take_lease(engine, LEASE, "a", now=NOW + 5, seconds=10)
    assert not take_lease(engine, LEASE, "b", now=NOW + 14, seconds=10)
    assert take_lease(engine, LEASE, "b", now=NOW + 16, seconds=10)
    give_back_lease(engine, LEASE, "a")
    assert not take_lease(engine, LEASE, "a", now=NOW + 17, seconds=10)
    give_back_lease(engine, LEASE, "b")
    assert take_lease(engine, LEASE, "a", now=NOW + 17, seconds=10)


def test_a_run_whose_reason_went_is_dropped_unless_a_process_is_at_it(runs: Runs, launcher: FakeLauncher) -> None:
    policy = POLICY.model_copy(update={"daily_runs": 1})
    waiting = runs.request("net", "re-optimise", "test", cause="drift", incident="i", now=NOW)
    assert runs.drop("i", "released again", now=NOW + 1) is None
    dropped = runs.entry(waiting.id)
    assert (dropped.state, dropped.ended, dropped.result and dropped.result.detail) == (
        "dropped", NOW + 1, "released again",
    )  # fmt: skip
    assert runs.hindrance(policy, "net", "drift", now=NOW + 2) is None
    running = runs.request("net", "re-optimise", "test", cause="drift", incident="j", now=NOW + 2)
    runs.advance(now=NOW + 2)
    assert launcher.started == [running.id]
    assert runs.drop("j", "released again", now=NOW + 3) == running.id
    assert runs.entry(running.id).state == "running"
    launcher.states[running.id] = RunState(state="died")
    assert runs.drop("j", "released again", now=NOW + 4) is None
    assert runs.advance(now=NOW + 5) == ()
    assert (launcher.started, runs.under_way()) == ([running.id], None)
    assert runs.drop("none", "released again", now=NOW + 6) is None


def test_refusals_before_the_release_count_no_more(runs: Runs, launcher: FakeLauncher) -> None:
    for number in range(2):
        finish(runs, launcher, "refused", now=NOW + 3600 * number)
    assert runs.hindrance(POLICY, "net", "drift", released=NOW, now=NOW + 7200) is not None
    assert runs.hindrance(POLICY, "net", "drift", released=NOW + 1, now=NOW + 7200) is None
