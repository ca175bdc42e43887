"""What Triton's counters say between two looks: how much is asked, and what share fails in the model itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from leanloop.monitoring.triton_metrics import VersionMetrics

SPAN_SECONDS = 60.0
_LEAST_REQUESTS = 20
_FAILING_SHARE = 0.1


@dataclass(frozen=True)
class _Look:
    at: float
    requests: int
    failures: int
    samples: int
    busy_seconds: float


class Traffic:
    """The newest minute of one model version's counters."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def add(self, rows: Sequence[VersionMetrics], model: str, version: int, now: float) -> None:
        """Take in what Triton counts at a Unix time; counters that went back belong to a new server."""
        row = next((row for row in rows if (row.model, row.version) == (model, version)), None)
        if row is None:
            return
        busy_seconds = row.successes * row.latency_ms / 1e3
        look = _Look(now, row.successes + row.model_failures, row.model_failures, row.samples, busy_seconds)
        if self._looks and look.samples < self._looks[-1].samples:
            self._looks.clear()
        self._looks.append(look)
        while self._looks[0].at < now - SPAN_SECONDS:
            self._looks.popleft()

    @property
    def rate(self) -> float:
        """Samples per second."""
        if len(self._looks) < 2:
            return 0.0
        first, last = self._looks[0], self._looks[-1]
        return (last.samples - first.samples) / (last.at - first.at)

    @property
    def concurrency(self) -> int:
        """Requests under way at the same time on average, by Little's law; at least 1."""
        if len(self._looks) < 2:
            return 1
        first, last = self._looks[0], self._looks[-1]
        return max(1, round((last.busy_seconds - first.busy_seconds) / (last.at - first.at)))

    @property
    def failing(self) -> bool:
        """Whether the model itself fails a tenth of enough requests."""
        if len(self._looks) < 2:
            return False
        first, last = self._looks[0], self._looks[-1]
        requests, failures = last.requests - first.requests, last.failures - first.failures
        return requests >= _LEAST_REQUESTS and failures >= _FAILING_SHARE * requests
