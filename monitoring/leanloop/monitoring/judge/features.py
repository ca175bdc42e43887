"""What of a record is watched: a few numbers and categories per sample, the same for a reference and for live windows.

Images (inputs of shape [channels, height, width]) give brightness, contrast, sharpness and noise; rows give their
columns; every input gives its coordinates on the reference's principal components. Of a classifier's answer the class
and its softmax confidence are watched, of a regression the value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]

PROJECTIONS = 8
COLUMNS = 32
_FITTED_ON = 2_000
_IMAGE_SIDE = 8
"""Smaller arrays are not looked at as images."""


@dataclass(frozen=True)
class Projection:
    """Principal components of one input.

    Attributes:
        centre: Mean of the reference, [values].
        components: Orthonormal rows, [components, values].
    """

    centre: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> Projection:
        """The first components of [samples, ...], by a singular value decomposition of at most 2,000 samples."""
        rows = flat(values[:_FITTED_ON])
        centre = rows.mean(axis=0)
        _, _, components = np.linalg.svd(rows - centre, full_matrices=False)
        return cls(centre, components[:PROJECTIONS])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Coordinates, [samples, components]."""
        coordinates: np.ndarray = (flat(values) - self.centre) @ self.components.T
        return coordinates


@dataclass(frozen=True)
class Features:
    """Columns of a window.

    Attributes:
        numbers: By name, [samples] float64.
        classes: By name, [samples] int64, of values from 0.
    """

    numbers: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]


def featurise(
    inputs: Arrays, output: np.ndarray, projections: Mapping[str, Projection], *, classifies: bool
) -> Features:
    """The features of some samples.

    Args:
        inputs: By name, [samples, ...].
        output: The model's first output, [samples, ...]; logits or probabilities of a classifier.
        projections: By input name, fitted on the reference.
        classifies: Whether the output is a classifier's.
    """
    numbers: dict[str, np.ndarray] = {}
    for name, values in inputs.items():
        numbers |= {f"{name}.{key}": column for key, column in _of_input(values).items()}
        coordinates = projections[name](values)
        numbers |= {f"{name}.pc{index}": coordinates[:, index] for index in range(coordinates.shape[1])}
    scores = flat(output)
    if not classifies:
        return Features(
            numbers | {f"output.{index}": scores[:, index] for index in range(scores.shape[1])[:COLUMNS]}, {}
        )
    chances = probabilities(scores)
    return Features(numbers | {"output.confidence": chances.max(axis=1)}, {"output.class": chances.argmax(axis=1)})


def coordinates(
    inputs: Arrays, output: np.ndarray, projections: Mapping[str, Projection], *, classifies: bool
) -> np.ndarray:
    """All projections of some samples beside the answers: [samples, coordinates]; arguments as `featurise` takes them.

    Of a classifier the answers are its probabilities, of a regression the values; at most 32 of them.
    """
    scores = flat(output)
    answers = probabilities(scores) if classifies else scores
    return np.concatenate(
        [projections[name](values) for name, values in inputs.items()] + [answers[:, :COLUMNS]], axis=1
    )


def predicted(output: np.ndarray) -> np.ndarray:
    """The class of each answer, [samples], of a classifier's first output, [samples, ...]."""
    return np.asarray(probabilities(flat(output)).argmax(axis=1))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Class probabilities, [samples, classes], of logits, of probabilities, or of one logit per sample.

    Rows that are distributions already are left as they are.
    """
    if scores.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    elif (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3):
        return scores
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return chances


def flat(values: np.ndarray) -> np.ndarray:
    """One row per sample, [samples, values], of [samples, ...]; there may be no samples."""
    return np.asarray(values, dtype=np.float64).reshape(len(values), math.prod(values.shape[1:]))


def finite(values: np.ndarray) -> np.ndarray:
    """Which of [samples, ...] hold finite values only, [samples]."""
    return np.asarray(np.isfinite(flat(values)).all(axis=1))


def _of_input(values: np.ndarray) -> dict[str, np.ndarray]:
    if values.ndim == 4 and min(values.shape[2:]) >= _IMAGE_SIDE:
        return _of_images(values.astype(np.float64))
    rows = flat(values)
    if rows.shape[1] <= COLUMNS:
        return {f"column{index}": rows[:, index] for index in range(rows.shape[1])}
    return {"mean": rows.mean(axis=1), "spread": rows.std(axis=1)}


def _of_images(images: np.ndarray) -> dict[str, np.ndarray]:
    across, down = np.diff(images, axis=3), np.diff(images, axis=2)
    second = np.diff(images, n=2, axis=3)
    axes = (1, 2, 3)
    spread = images.std(axis=axes)
    # Relative to the contrast, so that a brighter image does not read as a sharper one.
    scale = np.maximum(spread, 1e-9)
    return {
        "brightness": images.mean(axis=axes),
        "contrast": spread,
        "sharpness": (np.abs(across).mean(axis=axes) + np.abs(down).mean(axis=axes)) / scale,
        "noise": np.median(np.abs(second), axis=axes) / scale,
        "darkest": np.quantile(images, 0.05, axis=axes),
    }
