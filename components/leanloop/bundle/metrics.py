"""Metrics: what "as right as before" means.

A metric turns a model's outputs on a split into one number. ``agreement`` and ``cosine`` need no labels: they compare
with the original model's own outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from leanloop.bundle.data import Arrays
from leanloop.core.errors import DataError

Score = Callable[[np.ndarray, np.ndarray], float]

_SHARES = ("accuracy", "f1", "agreement")


@dataclass(frozen=True)
class Metric:
    """One number for outputs against targets.

    Attributes:
        name: As in the settings.
        higher_is_better: Direction.
        needs_labels: False for ``agreement`` and ``cosine``, whose targets are the original's outputs.
        score: ``(first output [samples, ...], targets [samples, ...]) -> value``.
    """

    name: str
    higher_is_better: bool
    needs_labels: bool
    score: Score

    def limit(self, original: float, max_relative_drop: float) -> float:
        """The worst value still allowed: the original's, worse by the relative drop."""
        sign = -1.0 if self.higher_is_better else 1.0
        return original + sign * max_relative_drop * abs(original)

    def meets(self, value: float, limit: float) -> bool:
        """Whether a value is at least as good as a limit."""
        return value >= limit if self.higher_is_better else value <= limit

    def point(self, value: float) -> float:
        """One point, in the metric's units: a hundredth of a share, and of other metrics a hundredth of the value."""
        return 0.01 if self.name in _SHARES else 0.01 * abs(value)

    def drop(self, original: float, value: float) -> float:
        """How much worse a value is, in the metric's units; negative when it is better."""
        return original - value if self.higher_is_better else value - original


def classes_of(outputs: np.ndarray) -> np.ndarray:
    """Predicted classes of logits or probabilities [samples, classes]; of single scores [samples] the sign's."""
    return outputs.argmax(axis=-1) if outputs.ndim > 1 and outputs.shape[-1] > 1 else (outputs.reshape(-1) > 0) * 1


def correct(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which samples are classified rightly, as booleans [samples]."""
    return np.asarray(classes_of(outputs) == targets)


def _accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(correct(outputs, targets).mean())


def _f1(outputs: np.ndarray, targets: np.ndarray) -> float:
    from sklearn.metrics import f1_score  # slow to import, and only wanted here

    return float(f1_score(targets, classes_of(outputs), average="macro", zero_division=0.0))


def _rmse(outputs: np.ndarray, targets: np.ndarray) -> float:
    difference = outputs.reshape(len(outputs), -1) - targets.reshape(len(targets), -1)
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def _class_agreement(outputs: np.ndarray, reference: np.ndarray) -> float:
    return float((classes_of(outputs) == classes_of(reference)).mean())


def _value_agreement(outputs: np.ndarray, reference: np.ndarray) -> float:
    # Coefficient of determination: 1 is identical, 0 is no better than the reference's mean.
    spread = np.square(reference - reference.mean(axis=0), dtype=np.float64).sum()
    error = np.square(outputs - reference, dtype=np.float64).sum()
    return float(1.0 - error / max(spread, np.finfo(np.float64).tiny))


def _cosine(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Of each sample's output with the reference's, all its axes as one vector; the mean over samples."""
    mine, its = (values.reshape(len(values), -1).astype(np.float64) for values in (outputs, reference))
    lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(its, axis=1)
    return float(np.mean((mine * its).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)))


def make_metric(name: str, task: str, owner: Callable[[Arrays, np.ndarray], float] | Score | None = None) -> Metric:
    """The metric of the settings.

    Args:
        name: ``accuracy``, ``f1`` (macro), ``rmse``, ``agreement``, ``cosine`` (of embeddings, whose direction is what
            counts), or the owner's ``module:function``.
        task: ``classification`` or ``regression``; decides what ``agreement`` compares.
        owner: The owner's function ``(first output, targets) -> float``, higher is better.
    """
    if name == "accuracy":
        return Metric(name, True, True, _accuracy)
    if name == "f1":
        return Metric(name, True, True, _f1)
    if name == "rmse":
        return Metric(name, False, True, _rmse)
    if name == "agreement":
        return Metric(name, True, False, _class_agreement if task == "classification" else _value_agreement)
    if name == "cosine":
        return Metric(name, True, False, _cosine)
    if owner is None:
        raise DataError("There is no metric of this name.", value=name)
    return Metric(name, True, True, owner)  # type: ignore[arg-type]
