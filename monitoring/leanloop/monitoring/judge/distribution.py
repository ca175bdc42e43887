"""One watched feature: its reference distribution, and how surprising a window of it is.

A distance between two samples is never zero, and the smaller the window, the larger it is by chance alone: a fixed
threshold raises false alarms on most small windows. So the threshold is that of the window's own size: windows of the
same size are drawn from the reference itself, and the p-value is the share of them that lie farther off.

The reference is itself a sample. Each drawn window is therefore compared with a reference that is drawn anew, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BINS = 100
DRAWS = 20_000
"""Windows drawn to calibrate one size: the smallest p-value is one in so many."""

_CHUNK = 2_000


def calibrated_size(window: int) -> int:
    """The size that a window is judged at: its own, or up to 5 % less.

    Each size is calibrated once, which takes seconds and memory, and windows lose a few records or end early. A smaller
    size has larger thresholds, so that none is too strict.
    """
    return window - window % max(1, window // 20)


def sorted_quantile(ascending: np.ndarray, share: float) -> float:
    """`numpy.quantile` of an array that is in order already: no need to look for the place."""
    place = share * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    return float(ascending[below] + (place - below) * (ascending[above] - ascending[below]))


@dataclass(frozen=True)
class Distribution:
    """Shares of the reference's samples in bins.

    Attributes:
        counts: Samples per bin, [bins].
        edges: Upper edges of all bins but the last, ascending, for numbers; None for classes, whose bin is their value.
    """

    counts: np.ndarray
    edges: np.ndarray | None

    @classmethod
    def of_numbers(cls, values: np.ndarray) -> Distribution:
        """Of [samples] numbers, in bins that hold about equally many."""
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
        return cls(_count(values, edges, len(edges) + 1), edges)

    @classmethod
    def of_classes(cls, values: np.ndarray, classes: int) -> Distribution:
        """Of [samples] class numbers below ``classes``."""
        return cls(np.bincount(values, minlength=classes), None)

    @property
    def samples(self) -> int:
        """Size of the reference."""
        return int(self.counts.sum())

    def distance(self, values: np.ndarray) -> float:
        """How far a window, [samples], lies from the reference, between 0 and 1.

        For numbers the Kolmogorov-Smirnov distance, the largest difference between the two shares below any edge; for
        classes the total variation, the share of samples that would have to change class.
        """
        window = _count(values, self.edges, len(self.counts)) / len(values)
        return float(_distances((window - self.counts / self.samples)[None], ordered=self.edges is not None)[0])

    def p_value(self, distance: float, window: int) -> float:
        """Chance that a window of this size, drawn from the reference's own distribution, lies as far off."""
        null = self._null(window)
        as_far = len(null) - int(np.searchsorted(null, distance, side="left"))
        return (1 + as_far) / (1 + len(null))

    def threshold(self, window: int, level: float) -> float:
        """The distance whose p-value is ``level`` at this window size."""
        return sorted_quantile(self._null(window), 1 - level)

    def _null(self, window: int) -> np.ndarray:
        return _drawn_distances(tuple(self.counts.tolist()), calibrated_size(window), self.edges is not None)


@lru_cache(maxsize=512)
def _drawn_distances(counts: tuple[int, ...], window: int, ordered: bool) -> np.ndarray:
    """Distances of drawn windows from drawn references, ascending, [draws].

    Numbers without ties fill their bins alike whatever they are, so that most features share one calibration.
    """
    # The seed is the size: the same window is always judged in the same way.
    rng, samples = np.random.default_rng(window), sum(counts)
    shares = np.array(counts) / samples
    parts = [
        _distances(
            rng.multinomial(window, shares, size=_CHUNK) / window
            - rng.multinomial(samples, shares, size=_CHUNK) / samples,
            ordered=ordered,
        )
        for _ in range(DRAWS // _CHUNK)
    ]
    return np.sort(np.concatenate(parts))


def _distances(differences: np.ndarray, *, ordered: bool) -> np.ndarray:
    far = np.abs(differences.cumsum(axis=1)).max(axis=1) if ordered else np.abs(differences).sum(axis=1) / 2
    return np.asarray(far)


def _count(values: np.ndarray, edges: np.ndarray | None, bins: int) -> np.ndarray:
    if edges is not None:
        return np.bincount(np.searchsorted(edges, values, side="left"), minlength=bins)
    # A class that the reference never saw counts as its last one's neighbour: the shares of all others fall short.
    return np.bincount(np.minimum(values, bins - 1), minlength=bins)
