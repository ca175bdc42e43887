"""Intervals and paired tests: what keeps noise from being read as a difference.

Latencies are summarised per block and resampled over blocks, since calls of one block share the machine's mood.
Accuracies are resampled over samples, and two models on the same samples are always compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leanloop.bundle import Metric
from leanloop.core.contracts import Interval

RESAMPLES = 1000
SLOW_RESAMPLES = 400
"""For statistics that take long: an owner's metric, a quantile over all calls."""


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[..., Any] = np.median,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993) of a statistic.

    Args:
        values: One per block or sample, [n] with n at least 2; their order does not matter.
        statistic: Such as ``np.median`` or ``np.mean``; takes ``axis``.
        confidence: Share of intervals that hold the true value.
        seed: Of the resampling.
    """
    from scipy import stats  # takes a second to import, and most processes compare nothing

    array = np.sort(np.asarray(values, dtype=np.float64))
    found = stats.bootstrap(
        (array,), statistic, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=seed
    )
    # Interpolation between equal resamples rounds, and may end up beside all values by the last bit.
    interval = _interval(float(statistic(array)), found.confidence_interval)
    low, high = max(interval.low, float(array[0])), min(interval.high, float(array[-1]))
    return Interval(value=interval.value, low=low, high=high)


def quantile_interval(blocks: Sequence[np.ndarray], quantile: float, confidence: float, seed: int = 0) -> Interval:
    """A quantile over all calls of all blocks, with an interval that resamples whole blocks."""

    def statistic(chosen: np.ndarray) -> float:
        return float(np.quantile(np.concatenate([blocks[index] for index in chosen]), quantile))

    return _resample_indices(statistic, len(blocks), confidence, seed)


def ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """How many times larger the numerator is, paired over blocks of the same round.

    The median of log-ratios, so that exchanging the two gives the reciprocal, and that what slows a whole round
    cancels.
    """
    logarithms = np.log(np.asarray(numerator, dtype=np.float64)) - np.log(np.asarray(denominator, dtype=np.float64))
    interval = bootstrap_interval(logarithms, np.median, confidence, seed)
    return Interval(value=np.exp(interval.value), low=np.exp(interval.low), high=np.exp(interval.high))


def metric_interval(
    metric: Metric, outputs: np.ndarray, targets: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """A metric with its bootstrap interval over samples."""
    return _resample_indices(lambda rows: metric.score(outputs[rows], targets[rows]), len(targets), confidence, seed)


@dataclass(frozen=True)
class NonInferiority:
    """Whether a model is at most a margin worse than another.

    Attributes:
        drop: How much worse it is, in the metric's units; negative when it is better.
        upper_bound: The drop is below this with the asked confidence, one-sided.
        margin: The drop that is still allowed.
    """

    drop: float
    upper_bound: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether even the upper bound stays within the margin."""
        return self.upper_bound <= self.margin


def noninferiority(
    metric: Metric,
    original: np.ndarray,
    candidate: np.ndarray,
    targets: np.ndarray,
    *,
    margin: float,
    confidence: float = 0.95,
    seed: int = 0,
) -> NonInferiority:
    """Bound how much worse a candidate is than the original on the same samples, by paired bootstrap.

    Args:
        metric: The owner's metric.
        original: The original's first output, [samples, ...].
        candidate: The candidate's, of the same samples.
        targets: Labels; for ``agreement`` the original's outputs.
        margin: Drop that is allowed, in the metric's units.
        confidence: One-sided.
        seed: Of the resampling.
    """

    def drop(rows: np.ndarray) -> float:
        return metric.drop(metric.score(original[rows], targets[rows]), metric.score(candidate[rows], targets[rows]))

    interval = _resample_indices(drop, len(targets), confidence, seed, alternative="less")
    return NonInferiority(interval.value, interval.high, margin)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Exact McNemar test: p-value of "both are right equally often" on the same samples, [samples] booleans each.

    Only samples on which exactly one of the two is right tell them apart; under the hypothesis each goes either way
    with probability 1/2.
    """
    from scipy import stats  # takes a second to import, and most processes compare nothing

    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(correct_b & ~correct_a))
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def _resample_indices(
    statistic: Callable[[np.ndarray], float], count: int, confidence: float, seed: int, alternative: str = "two-sided"
) -> Interval:
    from scipy import stats  # takes a second to import, and most processes compare nothing

    indices = np.arange(count)
    found = stats.bootstrap(
        (indices,),
        statistic,
        n_resamples=SLOW_RESAMPLES,
        vectorized=False,
        confidence_level=confidence,
        alternative=alternative,
        method="percentile",
        rng=seed,
    )
    return _interval(statistic(indices), found.confidence_interval)


def _interval(value: float, bounds: Any) -> Interval:
    # The estimate of a skewed sample can fall just outside the percentiles.
    return Interval(value=value, low=min(float(bounds.low), value), high=max(float(bounds.high), value))
