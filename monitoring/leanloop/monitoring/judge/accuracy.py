"""How right the model is on live traffic: with labels an interval, without them an estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leanloop.core.contracts import Interval
from leanloop.monitoring.judge.estimate import Falling

LEAST_LABELLED = 50
"""Fewer labelled records are not judged."""


@dataclass(frozen=True)
class LiveAccuracy:
    """Accuracy on the labelled records of a window.

    Attributes:
        labelled: Records with a label.
        records: All of the window.
        accuracy: With its Wilson interval; None without labels.
    """

    labelled: int
    records: int
    accuracy: Interval | None

    @property
    def coverage(self) -> float:
        """Share of the records that have a label."""
        return self.labelled / self.records if self.records else 0.0


def live_accuracy(predicted: np.ndarray, labels: np.ndarray, *, confidence: float = 0.95) -> LiveAccuracy:
    """Accuracy where there are labels.

    Args:
        predicted: Class numbers, [records].
        labels: Class numbers, [records]; negative where none has come yet.
        confidence: Of the interval.
    """
    known = labels >= 0
    right, count = int((predicted[known] == labels[known]).sum()), int(known.sum())
    interval = wilson(right, count, confidence) if count else None
    return LiveAccuracy(count, len(predicted), interval)


def accuracy_state(live: LiveAccuracy, usual: float | None, samples: int, *, level: float, max_drop: float) -> Falling:
    """Whether accuracy falls: lower than chance explains, and by as much as matters.

    Chance plays on both sides. A repaired release was accepted on some hundred recent samples, and its candidates were
    chosen by them: what it is really like may be two points lower.

    Args:
        live: Of a window.
        usual: Accuracy of the release when it was accepted; None when it is not known.
        samples: On which.
        level: Chance of a false alarm per window.
        max_drop: In accuracy, between 0 and 1.
    """
    if live.accuracy is None or usual is None or live.labelled < LEAST_LABELLED:
        return "unknown"
    value, confidence = live.accuracy.value, 1 - 2 * level
    highest = wilson(round(value * live.labelled), live.labelled, confidence).high
    lowest = wilson(round(usual * samples), samples, confidence).low
    return "falling" if highest < lowest and value < usual - max_drop else "ok"


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share with its Wilson score interval (Wilson, 1927), which holds at small counts and near 0 and 1.

    Args:
        successes: At most ``trials``.
        trials: At least 1.
        confidence: Two-sided.
    """
    from scipy import stats

    found = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(value=successes / trials, low=float(found.low), high=float(found.high))
