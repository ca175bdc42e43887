"""Whether the served model still answers as its parent does, at equal difficulty.

A compressed model disagrees with its parent mostly where the parent itself is unsure. When inputs get harder, agreement
falls although compression hurts no more than before. So the agreement to expect is that of the reference *at the same
margins of the parent*, and only a lack that remains speaks of compression. It needs no labels.

Where the parent itself is much less sure than it was, it is no measure of right: both may fail, each in its own way.
The agreement to expect tells that, too: it falls with the parent's margins, whatever the compressed model answers.
Only where the two hardly ever disagreed on the reference, at whatever margin, nothing can fall, and the margins
themselves are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from leanloop.monitoring.judge.counts import chances, expected_share
from leanloop.monitoring.judge.estimate import Falling
from leanloop.monitoring.judge.features import flat, predicted, probabilities

LEAST_SAMPLES = 50
"""Fewer pairs of answers are not judged."""

_EDGES = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
"""Of the parent's margin, the lead of its first class over its second in probability; agreement changes most near 0."""

_LEAST_IN_BIN = 20

_LEAST_DISAGREED = 10
"""Pairs of the reference that must disagree, so that the agreement to expect tells how sure the parent is."""

_LESS_SURE = 0.3
"""Of the parent's mean margin, between 0 and 1. On digits, images a third brighter cost it 0.23 and those turned by
severity 5 cost 0.39; the means of windows of sixty pairs scatter by 0.02 to 0.04."""

_REGRESSION_BINS = 10
_REGRESSION_AGREES = 0.95


@dataclass(frozen=True)
class AgreementDrift:
    """Agreement of one window.

    Attributes:
        samples: Pairs of answers.
        agreement: Share that agrees; None without pairs.
        expected: Share to expect at these margins.
        p_value: Chance of so little agreement, or less, when compression hurts as it did on the reference.
        state: ``unknown`` with too few pairs.
        parent: Whether the parent is less sure than it was; ``unknown`` with too few pairs, and for a regression.
    """

    samples: int
    agreement: float | None
    expected: float | None
    p_value: float | None
    state: Falling
    parent: Falling


@dataclass(frozen=True)
class Agreement:
    """How often the artifact agreed with its parent on the reference.

    Attributes:
        edges: Upper edges of all bins of difficulty but the last, ascending.
        agreed: Pairs that agreed, per bin, [bins].
        disagreed: Pairs that did not, per bin, [bins].
        tolerance: A regression agrees within it; None for a classifier, which agrees by class.
    """

    edges: np.ndarray
    agreed: np.ndarray
    disagreed: np.ndarray
    tolerance: float | None

    @classmethod
    def fit(cls, output: np.ndarray, parent_output: np.ndarray, *, classifies: bool) -> Self:
        """From answers of both to the same inputs, [samples, ...] each.

        A classifier agrees when the class is the same, at the difficulty of the parent's margin. A regression agrees
        within the difference that 95 % of the reference's pairs stay in, at the difficulty of the parent's value.
        """
        tolerance = None if classifies else float(np.quantile(_apart(output, parent_output), _REGRESSION_AGREES))
        difficulty = _difficulty(parent_output, classifies)
        edges = _EDGES if classifies else np.quantile(difficulty, np.linspace(0, 1, _REGRESSION_BINS + 1)[1:-1])
        edges = _merged(np.unique(edges), difficulty)
        bins, agrees = np.searchsorted(edges, difficulty), _agrees(output, parent_output, tolerance)
        agreed = np.bincount(bins[agrees], minlength=len(edges) + 1)
        return cls(edges, agreed, np.bincount(bins[~agrees], minlength=len(edges) + 1), tolerance)

    def judge(self, output: np.ndarray, parent_output: np.ndarray, *, level: float, max_drop: float) -> AgreementDrift:
        """Compare a window with the reference.

        It falls when so little agreement has a chance below ``level``, and is ``max_drop`` below what is expected.

        Args:
            output: Of the served model, [samples, ...].
            parent_output: Of the parent on the same inputs, [samples, ...].
            level: Chance of a false alarm per window.
            max_drop: In agreement, between 0 and 1.
        """
        samples = len(output)
        if not samples:
            return AgreementDrift(0, None, None, None, "unknown", "unknown")
        agreeing = int(_agrees(output, parent_output, self.tolerance).sum())
        bins = np.searchsorted(self.edges, _difficulty(parent_output, self.tolerance is None))
        counts = np.bincount(bins, minlength=len(self.agreed))
        # The number of agreeing pairs is a sum over independent bins: its distribution is their convolution.
        distribution, expected = np.ones(1), 0.0
        for count, agreed, disagreed in zip(
            counts.tolist(), self.agreed.tolist(), self.disagreed.tolist(), strict=True
        ):
            if count:
                distribution = np.convolve(distribution, chances(count, agreed, disagreed))
                expected += count / samples * expected_share(agreed, disagreed)
        p_value, agreement = min(1.0, float(distribution[: agreeing + 1].sum())), agreeing / samples
        if samples < LEAST_SAMPLES:
            return AgreementDrift(samples, agreement, expected, p_value, "unknown", "unknown")
        falls = p_value <= level and agreement <= expected - max_drop
        state: Falling = "falling" if falls else "ok"
        return AgreementDrift(samples, agreement, expected, p_value, state, self._parent(expected, counts, max_drop))

    def _parent(self, expected: float, counts: np.ndarray, max_drop: float) -> Falling:
        if self.tolerance is not None:
            return "unknown"  # the size of a number says nothing about how sure it is
        pairs = self.agreed + self.disagreed
        if self.disagreed.sum() < _LEAST_DISAGREED:
            return "falling" if self._margin(counts) <= self._margin(pairs) - _LESS_SURE else "ok"
        usual = self.agreed.sum() / pairs.sum()
        return "falling" if expected <= usual - max_drop else "ok"

    def _margin(self, counts: np.ndarray) -> float:
        """The parent's mean margin where so many pairs fall into each bin, by the bins' middles."""
        ends = np.concatenate([[0.0], self.edges, [1.0]])
        return float(np.average((ends[:-1] + ends[1:]) / 2, weights=counts))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, for a file."""
        arrays = {"edges": self.edges, "agreed": self.agreed, "disagreed": self.disagreed}
        return arrays if self.tolerance is None else arrays | {"tolerance": np.array(self.tolerance)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What `arrays` gave."""
        tolerance = float(arrays["tolerance"]) if "tolerance" in arrays else None
        return cls(arrays["edges"], arrays["agreed"], arrays["disagreed"], tolerance)


def _agrees(output: np.ndarray, parent_output: np.ndarray, tolerance: float | None) -> np.ndarray:
    if tolerance is not None:
        return _apart(output, parent_output) <= tolerance
    return np.asarray(predicted(output) == predicted(parent_output))


def _apart(output: np.ndarray, parent_output: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(flat(output) - flat(parent_output)).max(axis=1))


def _difficulty(parent_output: np.ndarray, classifies: bool) -> np.ndarray:
    scores = flat(parent_output)
    if not classifies:
        return np.asarray(scores[:, 0])
    ordered = np.sort(probabilities(scores), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def _merged(edges: np.ndarray, difficulty: np.ndarray) -> np.ndarray:
    """The edges without those that would leave fewer than 20 of the reference in a bin."""
    kept: list[float] = []
    for edge in edges:
        below = difficulty <= edge
        inside = below & (difficulty > kept[-1]) if kept else below
        if inside.sum() >= _LEAST_IN_BIN and (~below).sum() >= _LEAST_IN_BIN:
            kept.append(float(edge))
    return np.array(kept)
