"""How much of the inputs lies outside the range that the reference saw: INT8 clips it, any model guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from leanloop.monitoring.judge.counts import chances, expected_share
from leanloop.monitoring.judge.features import COLUMNS, flat
from leanloop.monitoring.judge.persistence import State

LEAST_SAMPLES = 100
"""Smaller windows are not judged."""

EFFECT_FLOOR = 0.02
"""So many more of the records than usual must lie outside, so that no large window alarms over a trifle."""

_SLACK = 1e-3
"""Share of the range that a value may lie beyond it: other decoders round otherwise."""


@dataclass(frozen=True)
class Clipping:
    """One input of one window.

    Attributes:
        name: Of the input.
        values: Share of all values that lie outside.
        records: Share of the records with any value outside.
        threshold: The share of records that alarms at this window size; None when the window is too small.
        state: ``drifting`` when more lies outside than the reference explains.
    """

    name: str
    values: float
    records: float
    threshold: float | None
    state: State


@dataclass(frozen=True)
class Range:
    """What the reference saw of one input.

    Attributes:
        low: Smallest value, of each column of a row with at most 32, else of all values: [columns] or [1].
        high: Largest value, likewise.
        outside: Held-out reference records with any value outside.
        inside: Held-out reference records without.
    """

    low: np.ndarray
    high: np.ndarray
    outside: int
    inside: int

    @classmethod
    def fit(cls, values: np.ndarray) -> Self:
        """From [samples, ...]: the range of one half, and how much of the other half lies outside."""
        rows = flat(values)
        by_column = rows.shape[1] <= COLUMNS and values.ndim == 2
        axis = 0 if by_column else None
        low, high = (np.atleast_1d(extreme(rows[0::2], axis=axis)) for extreme in (np.min, np.max))
        held_out = cls(low, high, 0, 0)._outside(values[1::2]).any(axis=1)
        return cls(low, high, int(held_out.sum()), int((~held_out).sum()))

    def judge(self, name: str, values: np.ndarray, *, level: float) -> Clipping:
        """Compare a window, [samples, ...], with the reference.

        Args:
            name: Of the input.
            values: Finite.
            level: Chance of a false alarm per window.
        """
        outside = self._outside(values)
        samples, records = len(values), float(outside.any(axis=1).mean()) if len(values) else 0.0
        share = float(outside.mean()) if outside.size else 0.0
        if samples < LEAST_SAMPLES:
            return Clipping(name, share, records, None, "unknown")
        threshold = self._threshold(samples, level)
        return Clipping(name, share, records, threshold, "drifting" if records >= threshold else "ok")

    def _threshold(self, samples: int, level: float) -> float:
        """The smallest share of records that has a chance of at most ``level``, or the effect floor."""
        at_least = np.cumsum(chances(samples, self.outside, self.inside)[::-1])[::-1]
        rare = np.flatnonzero(at_least <= level)
        surprising = rare[0] / samples if len(rare) else np.inf
        return float(max(surprising, expected_share(self.outside, self.inside) + EFFECT_FLOOR))

    def _outside(self, values: np.ndarray) -> np.ndarray:
        rows, slack = flat(values), _SLACK * (self.high - self.low)
        return np.asarray((rows < self.low - slack) | (rows > self.high + slack))
