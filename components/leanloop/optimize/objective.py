"""What the search makes small, and what it may not go beyond."""

from __future__ import annotations

from typing import Protocol

from leanloop.core.contracts import TrialRow
from leanloop.core.settings import GoalSettings

HOLDS_ACCURACY = "holds the accuracy"
"""Reason of a complete `TrialRow` whose candidate keeps the metric that the goal asks for; of a revision on the golden
samples, and on golden and recent ones together."""

HOLDS_GOLDEN = "holds the accuracy on the owner's samples"
"""Reason of one that does so on the golden samples of a revision, but not on golden and recent ones together."""

LOSES = "loses too much accuracy"
"""Reason of one that does not."""


class Measured(Protocol):
    """Anything with a latency and a size."""

    @property
    def latency_ms(self) -> float | None:
        """p50 at the goal's batch size."""

    @property
    def size_bytes(self) -> int | None:
        """Of all files that the runtime loads."""


def objective(measured: Measured, goal: GoalSettings) -> float:
    """What is minimised: bytes, or milliseconds.

    While searching, the p50 latency stands for the p99 (of which a short measurement knows nothing) and for the cost
    (price per core-hour over throughput, which is the latency times a constant).
    """
    value = measured.size_bytes if goal.minimise == "size" else measured.latency_ms
    return float("inf") if value is None else float(value)


def within_limits(measured: Measured, goal: GoalSettings) -> bool:
    """Whether latency and size are within the goal's limits."""
    latency, size = measured.latency_ms, measured.size_bytes
    return (goal.max_latency_ms is None or latency is None or latency <= goal.max_latency_ms) and (
        goal.max_size_bytes is None or size is None or size <= goal.max_size_bytes
    )


def holds(row: TrialRow) -> bool:
    """Whether a trial's candidate was finished and keeps the metric."""
    return row.state == "complete" and row.reason == HOLDS_ACCURACY


def holds_golden(row: TrialRow) -> bool:
    """Whether a trial's candidate was finished and keeps the metric on the golden samples of a revision at least."""
    return row.state == "complete" and row.reason in (HOLDS_ACCURACY, HOLDS_GOLDEN)
