"""Whether a window of live records still looks like the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leanloop.monitoring.judge.distribution import Distribution
from leanloop.monitoring.judge.features import Arrays
from leanloop.monitoring.judge.mmd import KernelTest
from leanloop.monitoring.judge.reference import Reference

LEAST_SAMPLES = 100
"""Smaller windows are not judged: nothing short of a catastrophe would show in them."""

EFFECT_FLOOR = 0.06
"""A feature must also lie this much farther off than chance explains, so that no large window alarms over a trifle."""

TOGETHER = "together"
"""Name of the test over all coordinates at once."""

TOGETHER_FLOOR = 0.03
"""The same for it: its distances are smaller."""


@dataclass(frozen=True)
class FeatureDrift:
    """One feature of one window.

    Attributes:
        name: Of the feature.
        distance: From the reference, 0 to 1.
        threshold: The distance that alarms at this window size.
        p_value: Chance of such a distance without drift.
        drifts: Whether it alarms, all features considered.
    """

    name: str
    distance: float
    threshold: float
    p_value: float
    drifts: bool


@dataclass(frozen=True)
class WindowDrift:
    """All features of one window, the farthest off first; ``drifts`` is None when the window is too small to say."""

    samples: int
    features: tuple[FeatureDrift, ...]

    @property
    def drifts(self) -> bool | None:
        """Whether any feature alarms."""
        return any(feature.drifts for feature in self.features) if self.features else None


def judge_window(reference: Reference, inputs: Arrays, output: np.ndarray, *, level: float = 0.005) -> WindowDrift:
    """Compare a window with the reference.

    Holm's step-down correction keeps the chance that any of the features alarms without drift at ``level``.

    Args:
        reference: Of the release that answered.
        inputs: By name, [samples, ...].
        output: The model's first output, [samples, ...].
        level: Chance of a false alarm per window.
    """
    samples = len(output)
    if samples < LEAST_SAMPLES:
        return WindowDrift(samples, ())
    tests, limits = _tests(reference), thresholds(reference, samples, level)
    found = reference.features(inputs, output)
    columns = found.numbers | found.classes | {TOGETHER: reference.coordinates(inputs, output)}
    distances = {name: tests[name].distance(values) for name, values in columns.items()}
    p_values = {name: tests[name].p_value(distance, samples) for name, distance in distances.items()}
    rejected = holm(p_values, level)
    features = []
    for name in sorted(distances, key=lambda name: (p_values[name], -distances[name])):
        drifts = name in rejected and distances[name] >= limits[name]
        features.append(FeatureDrift(name, distances[name], limits[name], p_values[name], drifts))
    return WindowDrift(samples, tuple(features))


def thresholds(reference: Reference, samples: int, level: float) -> dict[str, float]:
    """The distance of each feature that alarms at a window size.

    Args:
        reference: What windows are compared with.
        samples: In the window.
        level: Chance of a false alarm per window, over all features.
    """
    tests = _tests(reference)
    return {
        name: max(
            test.threshold(samples, level / len(tests)),
            test.threshold(samples, 0.5) + (TOGETHER_FLOOR if name == TOGETHER else EFFECT_FLOOR),
        )
        for name, test in tests.items()
    }


def _tests(reference: Reference) -> dict[str, Distribution | KernelTest]:
    return {**reference.distributions, TOGETHER: reference.together}


def holm(p_values: dict[str, float], level: float) -> set[str]:
    """The names whose hypothesis is rejected at a family-wise level (Holm, 1979)."""
    rejected: set[str] = set()
    for index, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > level / (len(p_values) - index):
            break
        rejected.add(name)
    return rejected
