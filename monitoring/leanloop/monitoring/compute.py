"""How long the served models computed, counted in buckets: what Prometheus calls a histogram."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BUCKETS_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds: from a small model on its own to a large batch; what takes longer is in none."""


class ComputeTimes:
    """Compute times of one release's captured requests; each is that of the batch which the request was part of.

    Attributes:
        requests: Counted, slow ones included.
        total_seconds: Of all of them.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_SECONDS) + 1)
        self.requests = 0
        self.total_seconds = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one request."""
        seconds = milliseconds / 1e3
        self._counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.requests += 1
        self.total_seconds += seconds

    def buckets(self) -> tuple[tuple[float, int], ...]:
        """Each upper bound, in seconds, with the requests that took no longer."""
        return tuple(zip(BUCKETS_SECONDS, accumulate(self._counts[:-1]), strict=True))
