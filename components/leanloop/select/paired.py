"""How much worse a variant answers than the original, bounded from both sides on the same samples."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from leanloop.bundle import Metric, classes_of, correct
from leanloop.core.contracts import Interval

_RESAMPLES = 400


def metric_drop(
    metric: Metric,
    truth: np.ndarray,
    original: np.ndarray,
    variant: np.ndarray,
    *,
    classification: bool,
    confidence: float,
) -> Interval:
    """How much worse a variant's metric is than the original's on the same samples, in the metric's units.

    Args:
        metric: The owner's metric.
        truth: What the metric compares with, [samples, ...]: labels, or the original's outputs for ``agreement``.
        original: The original's outputs, [samples, ...].
        variant: The variant's outputs, [samples, ...].
        classification: Whether outputs are scores of classes.
        confidence: Of each end taken alone: the interval is two one-sided bounds.

    Returns:
        The drop, positive when the variant is worse. Shares of right answers get the Bonett-Price bounds, other metrics
        a bootstrap over samples with a fixed seed.
    """
    if classification and metric.name in {"accuracy", "agreement"}:
        labels = truth if metric.needs_labels else classes_of(truth)
        return share_drop(correct(original, labels), correct(variant, labels), confidence)
    value = metric.drop(metric.score(original, truth), metric.score(variant, truth))
    generator = np.random.default_rng(0)
    drops = []
    for _ in range(_RESAMPLES):
        rows = generator.integers(len(truth), size=len(truth))
        drops.append(metric.drop(metric.score(original[rows], truth[rows]), metric.score(variant[rows], truth[rows])))
    low, high = np.quantile(drops, [1 - confidence, confidence])
    return Interval(value=value, low=float(low), high=float(high))


def share_drop(original: np.ndarray, variant: np.ndarray, confidence: float) -> Interval:
    """How much smaller a share of right answers became, with a one-sided bound on each side.

    Args:
        original: Which samples the original gets right, booleans [samples].
        variant: The same of the variant.
        confidence: Of each bound taken alone.

    The bounds are those of Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data" (Journal of Educational and Behavioral Statistics 37, 2012), which hold their
    level down to a handful of samples.
    """
    samples = len(original)
    lost = int((original & ~variant).sum())
    gained = int((variant & ~original).sum())
    lost_share, gained_share = (lost + 1) / (samples + 2), (gained + 1) / (samples + 2)
    centre = lost_share - gained_share
    spread = NormalDist().inv_cdf(confidence) * np.sqrt((lost_share + gained_share - centre**2) / (samples + 2))
    return Interval(value=(lost - gained) / samples, low=float(centre - spread), high=float(centre + spread))
