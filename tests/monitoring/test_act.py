"""What the loop does about an incident outlives the service, wherever it dies."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from leanloop.core.launcher import RunRequest, RunState
from leanloop.core.settings import Settings, TriggerSettings
from leanloop.monitoring.act import Acts
from leanloop.monitoring.diagnosis import Evidence, diagnose
from leanloop.monitoring.incidents import Incident, Incidents
from leanloop.monitoring.runs import Runs
from leanloop.monitoring.server import Server

NOW = 1_000_000.0
DAMAGED = Evidence(agreement="falling")


class Launcher:
    """Stands for `leanloop.pipelines`: its runs end when they are told to."""

    def __init__(self) -> None:
        self.states: dict[str, RunState] = {}

    def start(self, request: RunRequest) -> None:
        self.states[request.id] = RunState(state="running")

    def look(self, run: str) -> RunState:
        return self.states.get(run, RunState(state="absent"))


class Service:
    """The parts of one that act, on the database that outlives it."""

    def __init__(self, settings: Settings, engine: Engine, launcher: Launcher) -> None:
        self.incidents, self.runs = Incidents(engine), Runs(engine, launcher)
        self.acts = Acts(Server(settings), self.incidents, self.runs, TriggerSettings())

    def see(self, now: float) -> Incident:
        found = self.incidents.observe("net", 2, diagnose(DAMAGED), DAMAGED, {}, now=now)
        assert found is not None
        return found

    def act(self, now: float) -> None:
        self.acts.act(self.see(now), since=None, concurrency=1, now=now)


@pytest.mark.parametrize(("state", "then"), [("released", "closed"), ("refused", "open")])
def test_an_end_that_a_dying_service_wrote_down_last_reaches_the_incident(
    settings: Settings, engine: Engine, state: str, then: str
) -> None:
    launcher = Launcher()
    before = Service(settings, engine, launcher)
    before.act(NOW)
    before.runs.advance(now=NOW)
    (run,) = launcher.states
    launcher.states[run] = RunState.model_validate({"state": state, "version": 3, "detail": "why"})
    assert len(before.runs.advance(now=NOW + 1)) == 1
    # Here it dies.
    after = Service(settings, engine, launcher)
    assert after.runs.advance(now=NOW + 2) == ()
    after.acts.settle(now=NOW + 2)
    (incident,) = after.incidents.latest(5)
    assert incident.state == then
    assert run in incident.note
    after.acts.settle(now=NOW + 3)
    assert after.incidents.latest(5) == (incident,)


def test_a_run_that_a_dying_service_wrote_down_belongs_to_its_incident(settings: Settings, engine: Engine) -> None:
    launcher = Launcher()
    before = Service(settings, engine, launcher)
    run = before.runs.request("net", "re-optimise", "test", incident=before.see(NOW).id, now=NOW)
    # Here it dies.
    after = Service(settings, engine, launcher)
    after.act(NOW + 1)
    (incident,) = after.incidents.open()
    assert (incident.state, incident.note) == ("acting", f"run {run.id}")
    assert [entry.request.id for entry in after.runs.entries()] == [run.id]
