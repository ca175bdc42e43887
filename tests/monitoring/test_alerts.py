"""Alerts come twice, late, resolved, from the future, about others, by two ways: each episode counts once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from leanloop.monitoring.alerts import MOST_ALERTS, AlertMessage, Alerts
from leanloop.monitoring.database import AlertRow
from leanloop.monitoring.diagnosis import Evidence, diagnose
from leanloop.monitoring.incidents import Incident, Incidents
from leanloop.monitoring.prometheus import ActiveAlert, fingerprint

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
SLOW = "LatencyBudgetBurn"
QUESTIONS = {SLOW: "latency", "EstimateFalling": "estimate", "PersonNeeded": "person"}


@pytest.fixture
def alerts(engine: Engine) -> Alerts:
    return Alerts(engine, QUESTIONS)


@pytest.fixture
def kept(engine: Engine) -> Callable[[], list[tuple[str, str]]]:
    """What is written down: name and status, oldest first."""

    def read() -> list[tuple[str, str]]:
        with Session(engine) as session:
            return [(row.name, row.status) for row in session.scalars(select(AlertRow).order_by(AlertRow.starts_at))]

    return read


Kept = Callable[[], list[tuple[str, str]]]


def message(*alerts: dict[str, Any]) -> AlertMessage:
    return AlertMessage.model_validate({"version": "4", "alerts": list(alerts), "receiver": "leanloop"})


def labels_of(name: str = SLOW, model: str = "net", version: str = "2") -> dict[str, str]:
    return {"alertname": name, "model": model, "version": version, "severity": "page"}


def alert(
    starts: str = "2026-11-22T11:59:00.123456789Z",
    *,
    status: str = "firing",
    name: str = SLOW,
    model: str = "net",
    version: str = "2",
) -> dict[str, Any]:
    labels = labels_of(name, model, version)
    return {
        "status": status,
        "labels": labels,
        "startsAt": starts,
        "fingerprint": fingerprint(labels),
        "annotations": {},
    }


def active(since: str = "2026-11-22T11:59:00.123456789Z", **labels: str) -> ActiveAlert:
    return ActiveAlert(labels_of(**labels), datetime.fromisoformat(since))


def test_an_episode_counts_once_however_often_it_is_told(alerts: Alerts, kept: Kept) -> None:
    assert alerts.receive(message(alert(), alert()), {"net"}, now=NOW).new == 1
    again = alerts.receive(message(alert()), {"net"}, now=NOW + 60)
    assert (again.new, again.repeated) == (0, 1)
    assert kept() == [(SLOW, "firing")]


def test_an_episode_ends_and_an_old_message_does_not_bring_it_back(alerts: Alerts, kept: Kept) -> None:
    alerts.receive(message(alert()), {"net"}, now=NOW)
    assert alerts.receive(message(alert(status="resolved")), {"net"}, now=NOW).resolved == 1
    assert alerts.receive(message(alert()), {"net"}, now=NOW).repeated == 1
    assert kept() == [(SLOW, "resolved")]
    assert alerts.receive(message(alert("2026-11-22T11:59:30Z")), {"net"}, now=NOW).new == 1


@pytest.mark.parametrize(
    ("strange", "reason"),
    [
        (alert(status="resolved"), "ended before it was told"),
        (alert("2026-11-22T13:00:00Z"), "starts in the future"),
        (alert("2026-11-20T11:00:00Z"), "started too long ago"),
        (alert(model="other"), "unknown model"),
        (alert(name="Watchdog"), "unknown alert"),
    ],
)
def test_what_is_not_believed_is_counted_and_not_kept(
    alerts: Alerts, kept: Kept, strange: dict[str, Any], reason: str
) -> None:
    told = alerts.receive(message(strange), {"net"}, now=NOW)
    assert told.refused == {reason: 1}
    assert told.new == 0
    assert kept() == []


@pytest.mark.parametrize(
    "document",
    [
        {"version": "3", "alerts": []},
        {"version": "4", "alerts": [alert() | {"fingerprint": "../../etc"}]},
        {"version": "4", "alerts": [alert() | {"startsAt": "yesterday"}]},
        {"version": "4", "alerts": [alert() | {"labels": {"alertname": "x" * 300}}]},
        {"version": "4", "alerts": [alert()] * (MOST_ALERTS + 1)},
    ],
)
def test_a_message_of_another_shape_is_refused_whole(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AlertMessage.model_validate(document)


def test_what_prometheus_shows_is_an_episode_until_it_fires_no_more(alerts: Alerts, kept: Kept) -> None:
    for later in (0, 5):
        alerts.poll([active(), active(model="other"), active(name="Watchdog")], {"net"}, now=NOW + later)
        assert kept() == [(SLOW, "firing")]
    alerts.poll([], {"net"}, now=NOW + 10)
    assert kept() == [(SLOW, "resolved")]
    alerts.poll([active("2026-11-22T12:00:12Z")], {"net"}, now=NOW + 15)
    assert kept() == [(SLOW, "resolved"), (SLOW, "firing")]


def test_an_episode_that_is_shown_and_told_is_one(alerts: Alerts, kept: Kept) -> None:
    # A rule that waits begins to hold before it fires, and Alertmanager is told the latter.
    alerts.poll([active("2026-11-22T11:58:00Z")], {"net"}, now=NOW)
    told = alerts.receive(message(alert("2026-11-22T11:59:00Z")), {"net"}, now=NOW + 1)
    assert (told.new, told.repeated) == (0, 1)
    alerts.poll([active("2026-11-22T11:58:00Z")], {"net"}, now=NOW + 5)
    assert kept() == [(SLOW, "firing")]
    ended = message(alert("2026-11-22T11:59:00Z", status="resolved"))
    assert alerts.receive(ended, {"net"}, now=NOW + 6).resolved == 1
    # Alertmanager was mistaken: Prometheus could not reach it for a while.
    alerts.poll([active("2026-11-22T11:58:00Z")], {"net"}, now=NOW + 10)
    assert kept() == [(SLOW, "firing")]


def test_what_is_told_while_prometheus_is_asked_has_not_ended(alerts: Alerts, kept: Kept) -> None:
    alerts.receive(message(alert()), {"net"}, now=NOW + 1)
    alerts.poll([], {"net"}, now=NOW)
    assert kept() == [(SLOW, "firing")]
    alerts.poll([], {"net"}, now=NOW + 5)
    assert kept() == [(SLOW, "resolved")]


def test_alerts_belong_to_the_incident_of_their_model_release_and_question(engine: Engine, alerts: Alerts) -> None:
    incidents = Incidents(engine)

    def see(model: str, version: int, evidence: Evidence) -> Incident:
        found = incidents.observe(model, version, diagnose(evidence), evidence, {}, now=NOW)
        assert found is not None
        return found

    told = [alert(), alert(version="1"), alert(model="other"), alert(name="EstimateFalling")]
    told.append(alert(name="PersonNeeded", version=""))
    alerts.receive(message(*told), {"net", "other"}, now=NOW)
    slow, other = see("net", 2, Evidence(latency="burning")), see("other", 3, Evidence(latency="burning"))
    for incident in (slow, other):
        alerts.attach(incident)
    assert alerts.of([slow.id, other.id]) == {slow.id: (SLOW,), other.id: ()}
    unsure = see("net", 2, Evidence(inputs="drifting", estimate="falling"))
    assert unsure.question == "accuracy"
    alerts.attach(unsure)
    incidents.change(unsure.id, "paged", "a person must look", now=NOW)
    (paged,) = incidents.open("net")
    alerts.attach(paged)
    assert alerts.of([slow.id, paged.id]) == {slow.id: (SLOW,), paged.id: ("EstimateFalling", "PersonNeeded")}


def test_a_fingerprint_tells_names_from_values() -> None:
    assert fingerprint({"a": "bc"}) != fingerprint({"ab": "c"})
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"})
