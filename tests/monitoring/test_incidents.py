"""An incident follows what is seen, until it is quiet."""

from __future__ import annotations

from pathlib import Path

import pytest

from leanloop.monitoring.database import open_database
from leanloop.monitoring.diagnosis import Evidence, diagnose
from leanloop.monitoring.incidents import Incident, Incidents

DRIFT = Evidence(inputs="drifting", labels="pending")
WRONG = Evidence(inputs="drifting", accuracy="falling", labels="enough")
QUIET = Evidence()


@pytest.fixture
def incidents(tmp_path: Path) -> Incidents:
    return Incidents(open_database(f"sqlite:///{tmp_path / 'loop.db'}"))


def see(incidents: Incidents, evidence: Evidence, *, now: float, version: int = 2, model: str = "net") -> Incident:
    found = incidents.observe(model, version, diagnose(evidence), evidence, {"figure": now}, now=now)
    assert found is not None
    return found


def test_seen_twice_it_is_one_incident_with_the_newest_evidence(incidents: Incidents) -> None:
    first, second = see(incidents, DRIFT, now=1.0), see(incidents, DRIFT, now=2.0)
    assert first.id == second.id
    assert (second.opened, second.updated) == (1.0, 2.0)
    assert second.evidence["figure"] == 2.0
    assert second.evidence["inputs"] == "drifting"


def test_nothing_wrong_closes_it(incidents: Incidents) -> None:
    see(incidents, DRIFT, now=1.0)
    assert incidents.observe("net", 2, diagnose(QUIET), QUIET, {}, now=3.0) is None
    (closed,) = incidents.latest(5)
    assert (closed.state, closed.closed, closed.note) == ("closed", 3.0, "it is over")
    assert see(incidents, DRIFT, now=4.0).id != closed.id


def test_a_graver_one_takes_it_in(incidents: Incidents) -> None:
    see(incidents, DRIFT, now=1.0)
    grave = see(incidents, WRONG, now=2.0)
    assert grave.question == "accuracy"
    assert [one.id for one in incidents.open("net")] == [grave.id]


def test_what_is_acted_upon_stays_open_until_its_run_ends(incidents: Incidents) -> None:
    grave = see(incidents, WRONG, now=1.0)
    incidents.change(grave.id, "acting", "run r", now=2.0)
    see(incidents, DRIFT, now=3.0)
    assert grave.id in [one.id for one in incidents.open("net")]
    incidents.change(grave.id, "closed", "version 3 serves", now=4.0)
    assert grave.id not in [one.id for one in incidents.open("net")]


def test_a_new_release_closes_what_was_about_the_old_one(incidents: Incidents) -> None:
    old = see(incidents, DRIFT, now=1.0)
    new = see(incidents, DRIFT, now=2.0, version=3)
    assert new.id != old.id
    assert [one.id for one in incidents.open()] == [new.id]


def test_a_paged_incident_whose_cause_changes_is_looked_at_again(incidents: Incidents) -> None:
    few = Evidence(inputs="drifting", accuracy="falling", labels="few")
    paged = see(incidents, few, now=1.0)
    incidents.change(paged.id, "paged", "labels are needed", now=1.0)
    assert see(incidents, few, now=2.0).state == "paged"
    assert see(incidents, WRONG, now=3.0).state == "open"


def test_models_do_not_touch_each_other(incidents: Incidents) -> None:
    one = see(incidents, DRIFT, now=1.0)
    incidents.observe("other", 2, diagnose(QUIET), QUIET, {}, now=2.0)
    assert [incident.id for incident in incidents.open()] == [one.id]
