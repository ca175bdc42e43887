"""How right the answers are, estimated without labels: by how sure the model is, and how often such answers were right.

This is confidence-based performance estimation (NannyML's CBPE) for accuracy. On the reference, isotonic regression
learns the chance that an answer of some class and confidence is right; the mean of these chances over a window is the
accuracy to expect. It is fitted to the answers of the artifact that serves: compression changes how sure a model is.
Where the reference has hardly any answers, what the model says of itself counts: a reference without a wrong answer
would else call every answer right, however unsure.

It holds as long as only the inputs change and equally sure answers stay equally often right. It is blind when the world
changes what is right for the same input, and too hopeful where a model is sure of inputs unlike any that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np

from leanloop.core.contracts import Interval
from leanloop.monitoring.judge.distribution import calibrated_size
from leanloop.monitoring.judge.features import flat, probabilities

Falling = Literal["ok", "falling", "unknown"]

LEAST_SAMPLES = 100
"""Smaller windows are not judged."""

LEAST_OF_CLASS = 200
"""Reference answers of a class, per half, for a calibration of its own; other classes share one."""

_ASSUMED = 20
"""Answers that are added to the reference: evenly spread over all confidences, and as often right as they are sure."""

_KNOTS = 201
_DRAWS = 20_000
_BINS = 100


@dataclass(frozen=True)
class Estimate:
    """Accuracy of one window, estimated.

    Attributes:
        samples: Records in the window.
        accuracy: With the interval in which the share of right answers lies in 95 of 100 windows; None when unknown.
        threshold: The estimate below which accuracy counts as falling, at this window size.
        state: ``unknown`` without a calibration, or when the window is too small.
    """

    samples: int
    accuracy: Interval | None
    threshold: float | None
    state: Falling


@dataclass(frozen=True, eq=False)
class Calibration:
    """From confidence to the chance of being right.

    Attributes:
        confidences: Ascending, [knots].
        chances: Per predicted class, [classes, knots]; linear in between.
        reference: Chances of the reference's own answers, [samples], each by a calibration that was fitted without it.
    """

    confidences: np.ndarray
    chances: np.ndarray
    reference: np.ndarray
    _nulls: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def fit(cls, output: np.ndarray, targets: np.ndarray) -> Self:
        """From the artifact's answers where the truth is known.

        Two calibrations are fitted, one on each half; live answers get their mean, the reference's answers get that of
        the other half.

        Args:
            output: Logits or probabilities, [samples, classes].
            targets: Class numbers, [samples].
        """
        confidence, predicted, classes = _answers(output)
        right = predicted == targets
        # Confidences crowd near 1, and so do the knots.
        inner = np.quantile(confidence, np.linspace(0, 1, _KNOTS))
        knots = np.unique(np.concatenate([[0.0], inner, [1.0]]))
        halves = [np.arange(len(right)) % 2 == half for half in (0, 1)]
        fitted = [_isotonic(confidence[half], predicted[half], right[half], knots, classes) for half in halves]
        reference = np.empty(len(right))
        for half, table in zip(halves, reversed(fitted), strict=True):
            reference[half] = _look_up(knots, table, confidence[half], predicted[half])
        return cls(knots, (fitted[0] + fitted[1]) / 2, reference)

    def estimate(self, output: np.ndarray, *, level: float, max_drop: float) -> Estimate:
        """Accuracy of a window to expect, and whether it falls.

        It falls when the estimate is lower than those of all but a share ``level`` of the windows of this size that are
        drawn from the reference, and ``max_drop`` lower than the reference's own.

        Args:
            output: Logits or probabilities, [samples, classes].
            level: Chance of a false alarm per window.
            max_drop: In accuracy, between 0 and 1.
        """
        samples = len(output)
        if samples < LEAST_SAMPLES:
            return Estimate(samples, None, None, "unknown")
        confidence, predicted, _ = _answers(output)
        chances = _look_up(self.confidences, self.chances, confidence, predicted)
        value = float(chances.mean())
        # The window's own luck, and that of the reference that the calibration was learnt from.
        variance = float((chances * (1 - chances)).mean()) * (1 / samples + 1 / len(self.reference))
        reach = 1.96 * variance**0.5
        usual = float(self.reference.mean())
        threshold = min(usual + float(np.quantile(self._null(samples), level)), usual - max_drop)
        interval = Interval(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach))
        return Estimate(samples, interval, threshold, "falling" if value < threshold else "ok")

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, for a file."""
        return {"confidences": self.confidences, "chances": self.chances, "reference": self.reference}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What `arrays` gave."""
        return cls(arrays["confidences"], arrays["chances"], arrays["reference"])

    def _null(self, window: int) -> np.ndarray:
        """How far the estimates of drawn windows lie from that of a reference drawn anew, [draws]."""
        window = calibrated_size(window)
        if window not in self._nulls:
            # The seed is the size: the same window is always judged in the same way.
            rng, count = np.random.default_rng(window), len(self.reference)
            parts = np.array_split(np.sort(self.reference), min(_BINS, count))
            values = np.array([part.mean() for part in parts])
            shares = np.array([len(part) for part in parts]) / count
            windows = rng.multinomial(window, shares, size=_DRAWS) / window
            references = rng.multinomial(count, shares, size=_DRAWS) / count
            self._nulls[window] = (windows - references) @ values
        return self._nulls[window]


def _answers(output: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    chances = probabilities(flat(output))
    return chances.max(axis=1), chances.argmax(axis=1), chances.shape[1]


def _isotonic(
    confidence: np.ndarray, predicted: np.ndarray, right: np.ndarray, knots: np.ndarray, classes: int
) -> np.ndarray:
    """Chances at the knots, [classes, knots]."""
    from sklearn.isotonic import IsotonicRegression

    assumed = np.linspace(1 / classes, 1, _ASSUMED)

    def fit(chosen: np.ndarray) -> np.ndarray:
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        sure, known = np.append(confidence[chosen], assumed), np.append(right[chosen].astype(float), assumed)
        # One class has its share of them.
        weights = np.append(np.ones(chosen.sum()), np.full(len(assumed), chosen.mean()))
        return np.asarray(model.fit(sure, known, weights).predict(knots))

    table = np.tile(fit(np.ones(len(right), dtype=bool)), (classes, 1))
    for number in range(classes):
        of_class = predicted == number
        if of_class.sum() >= LEAST_OF_CLASS:
            table[number] = fit(of_class)
    return table


def _look_up(knots: np.ndarray, table: np.ndarray, confidence: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    found = np.empty(len(confidence))
    for number in np.unique(predicted):
        chosen = predicted == number
        found[chosen] = np.interp(confidence[chosen], knots, table[number])
    return found
