"""All watched coordinates at once: the maximum mean discrepancy between a window and the reference.

Single features miss what shows only in how they go together. The maximum mean discrepancy (Gretton et al., 2012, "A
kernel two-sample test") sees any difference between two samples: it is the distance of their means in the space of a
Gaussian kernel, whose width is the median distance within the reference. Its threshold comes from permutations: the
reference is split at random, again and again, into a part of the window's size and the rest, which differ by chance
alone. They do not depend on the window, so that one set of permutations serves all windows of one size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from leanloop.monitoring.judge.distribution import calibrated_size, sorted_quantile

ROWS = 1_500
"""Of the reference, at most: all pairs of them are compared."""

LARGEST = 500
"""Of a window, at most."""

PERMUTATIONS = 10_000
"""The smallest p-value is one in so many."""

_CHUNK = 500
_LEAST_SCALE = 1e-9


@dataclass(frozen=True, eq=False)
class KernelTest:
    """The reference's side of the test.

    Attributes:
        rows: The reference's coordinates, [rows, coordinates], standardised.
        centre: Their mean before that, [coordinates].
        scale: Their standard deviation before that, [coordinates].
        width: Of the kernel.
    """

    rows: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    width: float
    _nulls: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _within: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def fit(cls, coordinates: np.ndarray) -> KernelTest:
        """From [samples, coordinates]; at most 1,500 samples are kept."""
        kept = np.asarray(coordinates[_evenly(len(coordinates), ROWS)], dtype=np.float32)
        centre, spread = kept.mean(axis=0), kept.std(axis=0)
        # A coordinate that never changed in the reference weighs a lot as soon as it does.
        scale = np.where(spread > _LEAST_SCALE, spread, 1.0).astype(np.float32)
        rows = (kept - centre) / scale
        squares = _squared_distances(rows, rows)
        between = squares[np.triu_indices(len(rows), 1)]
        width = float(np.sqrt(np.median(between))) if between.size and between.max() > 0 else 1.0
        return cls(rows, centre, scale, width)

    def size(self, window: int) -> int:
        """How many rows of a window are looked at: with few reference rows, not all, so that splits are possible."""
        return min(calibrated_size(window), LARGEST, len(self.rows) // 3)

    def distance(self, coordinates: np.ndarray) -> float:
        """How far a window, [samples, coordinates], lies from the reference, between 0 and 1."""
        size = self.size(len(coordinates))
        window = (coordinates[_evenly(len(coordinates), size)].astype(np.float32) - self.centre) / self.scale
        # As many reference rows as in the permutations, so that both distances are alike.
        rest = self.rows[_evenly(len(self.rows), len(self.rows) - size)]
        if size not in self._within:
            self._within[size] = self._kernel(rest, rest).mean()
        squared = self._kernel(window, window).mean() + self._within[size] - 2 * self._kernel(window, rest).mean()
        return float(_bounded(np.asarray(squared)))

    def p_value(self, distance: float, window: int) -> float:
        """Chance that a window of this size, drawn from the reference's own distribution, lies as far off."""
        null = self._null(window)
        as_far = len(null) - int(np.searchsorted(null, distance, side="left"))
        return (1 + as_far) / (1 + len(null))

    def threshold(self, window: int, level: float) -> float:
        """The distance whose p-value is ``level`` at this window size."""
        return sorted_quantile(self._null(window), 1 - level)

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(_squared_distances(left, right) / (-2 * self.width**2)))

    def _null(self, window: int) -> np.ndarray:
        """Distances between random parts of the reference, ascending, [permutations]."""
        size = self.size(window)
        if size not in self._nulls:
            # The seed is the size: the same window is always judged in the same way.
            rng, count = np.random.default_rng(size), len(self.rows)
            kernel = self._kernel(self.rows, self.rows)
            weights = np.full((_CHUNK, count), -1 / (count - size), dtype=np.float32)
            weights[:, :size] = 1 / size
            found = []
            for _ in range(PERMUTATIONS // _CHUNK):
                weights = rng.permuted(weights, axis=1)
                found.append(_bounded(np.einsum("pi,pi->p", weights @ kernel, weights)))
            self._nulls[size] = np.sort(np.concatenate(found))
        return self._nulls[size]


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    # So few columns are no work for threads, which would only spin on the cores that the server needs.
    with _threads().limit(limits=1, user_api="blas"):
        products = left @ right.T
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * products
    return np.asarray(np.maximum(squares, 0))


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _bounded(squared: np.ndarray) -> np.ndarray:
    """A squared discrepancy, at most 2 with this kernel, as a distance between 0 and 1."""
    return np.asarray(np.sqrt(np.maximum(squared, 0) / 2), dtype=np.float64)


def _evenly(count: int, wanted: int) -> np.ndarray:
    """Indices of at most so many of ``count`` rows, spread evenly."""
    return np.linspace(0, count - 1, min(count, wanted)).astype(np.int64)
