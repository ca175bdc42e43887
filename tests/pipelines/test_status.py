"""What `leanloop status` says of the loop."""

from __future__ import annotations

import pytest

from leanloop.monitoring.view import FailureView, IncidentView, LoopView, ModelView
from leanloop.pipelines.cli.loop import print_view

SLOW = IncidentView(
    id="20261122-1",
    question="latency",
    cause="the release is too slow for its traffic",
    action="re-tune",
    state="acting",
    opened=0.0,
    note="run [net-1]",
    alerts=("LatencyBudgetBurn",),
)
CLOSED = {"model": "net", "closed": 60.0} | SLOW.model_dump(exclude={"alerts", "state"})
NET = ModelView(
    model="net",
    version=2,
    artifact_id="a",
    questions={},
    evidence={"inputs": "as before", "latency": "burning"},
    diagnosis=SLOW.cause,
    action=SLOW.action,
    expected_accuracy=None,
    accuracy=None,
    estimate=None,
    agreement=None,
    expected_agreement=None,
    labelled=0,
    coverage=0.0,
    conflicts=0,
    clipping={},
    features=(),
    window_records=0,
    windows=0,
    skipped=0,
    waiting=0,
    request_rate=0.0,
    capacity=0.0,
    versions=(),
    incidents=(SLOW,),
)


def test_an_open_incident_is_told_with_its_alerts(capsys: pytest.CaptureFixture[str]) -> None:
    print_view(LoopView(tick=1.0, models=(NET,)), [CLOSED])
    said = capsys.readouterr().out
    assert "net  incident 20261122-1, acting since" in said
    assert "run [net-1]" in said
    assert "alerts: LatencyBudgetBurn" in said
    assert "last incident" not in said


def test_without_an_open_one_the_last_incident_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = NET.model_copy(update={"incidents": ()})
    print_view(LoopView(tick=1.0, models=(quiet,)), [{"model": "other", "closed": 9.0}, CLOSED])
    said = capsys.readouterr().out
    assert "net  last incident 20261122-1, closed" in said
    assert "run [net-1]" in said


def test_what_could_not_be_looked_at_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    damaged = FailureView(what="odd", model="odd", looks=3, since=1.0, problem="[a.parquet] is damaged", paged=False)
    print_view(LoopView(tick=1.0, failures=(damaged,)), [])
    assert "Look failed: odd, 3 times in a row: [a.parquet] is damaged" in capsys.readouterr().out
