"""Alerts come twice, late, resolved, from the future, about others: each episode counts once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from leanloop.monitoring.alerts import MOST_ALERTS, AlertMessage, Alerts
from leanloop.monitoring.database import open_database

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def alerts(tmp_path: Path) -> Alerts:
    return Alerts(open_database(f"sqlite:///{tmp_path / 'loop.db'}"), {"LeanloopLatencyBurn"})


def message(*alerts: dict[str, Any]) -> AlertMessage:
    return AlertMessage.model_validate({"version": "4", "alerts": list(alerts), "receiver": "leanloop"})


def alert(
    starts: str = "2026-11-22T11:59:00.123456789Z",
    *,
    status: str = "firing",
    name: str = "LeanloopLatencyBurn",
    model: str = "net",
    fingerprint: str = "00ab",
) -> dict[str, Any]:
    labels = {"alertname": name, "model": model, "severity": "page"}
    return {"status": status, "labels": labels, "startsAt": starts, "fingerprint": fingerprint, "annotations": {}}


def test_an_episode_counts_once_however_often_it_is_told(alerts: Alerts) -> None:
    assert alerts.receive(message(alert(), alert()), {"net"}, now=NOW).new == 1
    again = alerts.receive(message(alert()), {"net"}, now=NOW + 60)
    assert (again.new, again.repeated) == (0, 1)
    assert [firing.name for firing in alerts.firing("net")] == ["LeanloopLatencyBurn"]


def test_an_episode_ends_and_an_old_message_does_not_bring_it_back(alerts: Alerts) -> None:
    alerts.receive(message(alert()), {"net"}, now=NOW)
    assert alerts.receive(message(alert(status="resolved")), {"net"}, now=NOW).resolved == 1
    assert alerts.receive(message(alert()), {"net"}, now=NOW).repeated == 1
    assert alerts.firing("net") == ()
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
def test_what_is_not_believed_is_counted_and_not_kept(alerts: Alerts, strange: dict[str, Any], reason: str) -> None:
    told = alerts.receive(message(strange), {"net"}, now=NOW)
    assert told.refused == {reason: 1}
    assert told.new == 0
    assert alerts.firing("net") == ()


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
