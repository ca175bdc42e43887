"""The newest answers of a release, and the labels that have come for them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from leanloop.monitoring.feed import Window
from leanloop.monitoring.judge import LiveAccuracy, live_accuracy
from leanloop.monitoring.labels import Labels

_UNKNOWN = -1

_Together = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Predicted classes, labels and times of all that is kept, [records] each."""


@dataclass
class _Answers:
    request_ids: np.ndarray
    samples: np.ndarray
    times: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray


class Recent:
    """Answers of one release, bounded; labels are asked for again until they have come.

    Args:
        labels: Of all models.
        model: Name of the model.
        windows: So many of the newest windows are kept.
    """

    def __init__(self, labels: Labels, model: str, windows: int) -> None:
        self._labels, self._model = labels, model
        self._kept: deque[_Answers] = deque(maxlen=windows)
        self._together: _Together | None = None

    def add(self, window: Window, predicted: np.ndarray) -> None:
        """Take in a window and the classes that were answered, [records]."""
        unknown = np.full(len(window), _UNKNOWN, dtype=np.int64)
        self._kept.append(_Answers(window.request_ids, window.samples, window.times, predicted, unknown))
        self._together = None

    def refresh(self) -> None:
        """Join the labels that have come since."""
        for answers in self._kept:
            open_ones = np.flatnonzero(answers.labels == _UNKNOWN)
            if not len(open_ones):
                continue
            known = self._labels.of(self._model, {str(answers.request_ids[index]) for index in open_ones})
            if not known:
                continue
            self._together = None
            for index in open_ones:
                label = known.get((str(answers.request_ids[index]), int(answers.samples[index])))
                if label is not None:
                    answers.labels[index] = int(label)

    def newest_labels(self) -> np.ndarray:
        """Of the newest window, [records]; negative where none has come."""
        return self._kept[-1].labels.copy() if self._kept else np.zeros(0, np.int64)

    def accuracy(self, records: int, *, after: float = 0.0) -> LiveAccuracy:
        """Over the newest so many labelled records after a Unix time; coverage is over all that are kept."""
        predicted, labels, times = self._joined()
        labelled = np.flatnonzero((labels != _UNKNOWN) & (times > after))[-records:]
        found = live_accuracy(predicted[labelled], labels[labelled])
        return LiveAccuracy(found.labelled, len(labels), found.accuracy)

    def labelled_since(self, time: float) -> int:
        """Labelled records that were asked since a Unix time."""
        _, labels, times = self._joined()
        return int(((labels != _UNKNOWN) & (times >= time)).sum())

    def coverage(self) -> float:
        """Share of the kept records that have a label."""
        _, labels, _ = self._joined()
        return float((labels != _UNKNOWN).mean()) if len(labels) else 0.0

    def _joined(self) -> _Together:
        if self._together is None:
            empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
            parts = [(answers.predicted, answers.labels, answers.times) for answers in self._kept] or [empty]
            predicted, labels, times = (np.concatenate(part) for part in zip(*parts, strict=True))
            self._together = predicted, labels, times
        return self._together
