"""From what was measured to the words of the diagnosis table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leanloop.core.settings import TriggerSettings
from leanloop.monitoring.diagnosis import Evidence
from leanloop.monitoring.judge.estimate import Falling
from leanloop.monitoring.judge.persistence import State
from leanloop.monitoring.view import Answer

_ABOVE_CAPACITY = 0.95
"""Of what was measured: a closed loop reaches its capacity, and live traffic then only queues."""


@dataclass(frozen=True)
class Findings:
    """What was measured of one release.

    Attributes:
        answers: Whether the champion answered its last real inferences.
        failing: Whether the model itself fails many requests.
        right: Whether it gave its golden answers; None when it was not asked.
        baking: Whether its promotion still waits for a verdict.
        latency_burns: Whether Prometheus says that the latency budget burns; None when it does not answer.
        request_rate: Samples per second.
        capacity: Samples per second that were measured; 0 when they never were.
        inputs: Against the reference.
        broken: Whether the newest window held broken records.
        accuracy: By labels.
        fresh_labels: Since the drift began.
        any_labels: Whether any label has ever come for the newest records.
        drifting_since: Unix time; None without drift.
        estimate: Accuracy without labels.
        agreement: With the parent.
        parent: How sure the parent is.
        revision_refused: Whether a revision was tried for this release and refused.
    """

    answers: bool
    failing: bool
    right: bool | None
    baking: bool
    latency_burns: bool | None
    request_rate: float
    capacity: float
    inputs: State
    broken: bool
    accuracy: Falling
    fresh_labels: int
    any_labels: bool
    drifting_since: float | None
    estimate: Falling
    agreement: Falling
    parent: Falling
    revision_refused: bool


def evidence_of(found: Findings, policy: TriggerSettings, now: float) -> Evidence:
    """The words for what was found at a Unix time."""
    return Evidence(
        requests="answered" if found.answers and not found.failing else "failing",
        answers="wrong" if found.right is False else "right",
        promoted="recently" if found.baking else "long ago",
        latency="unknown" if found.latency_burns is None else "burning" if found.latency_burns else "ok",
        demand=(
            "above capacity"
            if found.capacity and found.request_rate > _ABOVE_CAPACITY * found.capacity
            else "within capacity"
        ),
        inputs=_inputs(found),
        accuracy=found.accuracy,
        labels=_labels(found, policy, now),
        estimate=found.estimate,
        agreement=found.agreement,
        parent=found.parent,
        revision="refused" if found.revision_refused else "not tried",
    )


_INPUTS: dict[State, Literal["as before", "drifting", "unknown"]] = {
    "ok": "as before",
    "drifting": "drifting",
    "unknown": "unknown",
}


def _inputs(found: Findings) -> Literal["as before", "drifting", "broken", "unknown"]:
    if found.broken:
        return "broken"
    # A window that alarmed may be the first of many: until it is known, nothing may be blamed on anything else.
    begun = found.inputs == "ok" and found.drifting_since is not None
    return "unknown" if begun else _INPUTS[found.inputs]


def _labels(found: Findings, policy: TriggerSettings, now: float) -> Literal["enough", "few", "pending", "none"]:
    if found.fresh_labels >= policy.fresh_labels:
        return "enough"
    if found.drifting_since is not None and now < found.drifting_since + policy.label_horizon_minutes * 60:
        return "pending"
    return "few" if found.any_labels else "none"


def answers_of(evidence: Evidence) -> dict[str, Answer]:
    """The answers to the questions that are asked of live traffic, by question."""
    inputs: dict[str, Answer] = {"as before": "ok", "drifting": "bad", "broken": "bad", "unknown": "unknown"}
    falling: dict[str, Answer] = {"ok": "ok", "falling": "bad", "unknown": "unknown"}
    latency: dict[str, Answer] = {"ok": "ok", "burning": "bad", "unknown": "unknown"}
    fine = evidence.requests == "answered" and evidence.answers == "right"
    return {
        "inputs": inputs[evidence.inputs],
        "accuracy": falling[evidence.accuracy],
        "estimate": falling[evidence.estimate],
        "agreement": falling[evidence.agreement],
        "latency": latency[evidence.latency],
        "requests": "ok" if fine else "bad",
    }
