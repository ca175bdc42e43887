"""Statistics against known values, and what must hold for any numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leanloop.benchmark import bootstrap_interval, mcnemar, metric_interval, noninferiority, ratio_interval
from leanloop.benchmark.statistics import quantile_interval
from leanloop.bundle import make_metric

ACCURACY = make_metric("accuracy", "classification")
RMSE = make_metric("rmse", "regression")
DURATIONS = st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=20)


@settings(deadline=None, max_examples=25)
@given(DURATIONS, st.randoms(use_true_random=False))
@example([34.0, 34.0, 34.0, 33.69496655991109], random.Random(0))
def test_an_interval_holds_its_estimate_and_does_not_depend_on_the_order(
    values: list[float], chance: random.Random
) -> None:
    interval = bootstrap_interval(values)
    assert min(values) <= interval.low <= interval.value <= interval.high <= max(values)
    shuffled = list(values)
    chance.shuffle(shuffled)
    assert bootstrap_interval(shuffled) == interval


@settings(deadline=None, max_examples=25)
@given(DURATIONS)
def test_the_ratio_of_equals_is_one(values: list[float]) -> None:
    interval = ratio_interval(values, values)
    assert (interval.low, interval.value, interval.high) == (1.0, 1.0, 1.0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(1e-2, 1e2), st.floats(1e-2, 1e2)), min_size=4, max_size=20))
def test_exchanging_the_two_gives_the_reciprocal(pairs: list[tuple[float, float]]) -> None:
    left, right = zip(*pairs, strict=True)
    assert ratio_interval(left, right).value == pytest.approx(1 / ratio_interval(right, left).value)


def test_a_ratio_is_paired_so_that_a_slow_round_cancels() -> None:
    rounds = np.array([1.0, 1.0, 7.0, 1.0, 30.0, 1.0])
    interval = ratio_interval(10 * rounds, rounds)
    assert (interval.low, interval.value, interval.high) == pytest.approx((10, 10, 10))


def test_the_interval_of_a_mean_agrees_with_theory() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    interval = bootstrap_interval(values, np.mean, confidence=0.95)
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.04)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.04)


def test_a_quantile_is_over_all_calls_and_its_interval_over_blocks() -> None:
    blocks = [np.arange(100.0) + shift for shift in (0, 0, 0, 50)]
    interval = quantile_interval(blocks, 0.99, 0.95)
    assert interval.value == pytest.approx(np.quantile(np.concatenate(blocks), 0.99))
    assert interval.low == pytest.approx(98.01, abs=0.1)
    assert interval.high > 140


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(0, 0, 1.0), (5, 15, 0.04139), (10, 10, 1.0), (0, 6, 0.03125)])
def test_mcnemar_is_exact(only_a: int, only_b: int, p: float) -> None:
    # p = 2 * sum_{k <= min} C(n, k) / 2^n, capped at 1
    a = np.array([True] * only_a + [False] * only_b + [True] * 40 + [False] * 7)
    b = np.array([False] * only_a + [True] * only_b + [True] * 40 + [False] * 7)
    assert mcnemar(a, b) == pytest.approx(p, abs=1e-4)
    assert mcnemar(b, a) == mcnemar(a, b)


def classified(rng: np.random.Generator, targets: np.ndarray, accuracy: float) -> np.ndarray:
    right = rng.random(len(targets)) < accuracy
    return np.eye(3)[np.where(right, targets, (targets + 1) % 3)]


def test_metric_interval_agrees_with_the_binomial() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 2000)
    outputs = classified(rng, targets, 0.9)
    interval = metric_interval(ACCURACY, outputs, targets)
    error = np.sqrt(interval.value * (1 - interval.value) / 2000)
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=0.003)
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=0.003)


def test_noninferiority_is_paired_and_knows_the_metrics_direction() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 2000)
    original = classified(rng, targets, 0.9)
    nearly = original.copy()
    nearly[:4] = np.roll(np.eye(3)[targets[:4]], 1, axis=1)
    equal = noninferiority(ACCURACY, original, original, targets, margin=0.0)
    assert (equal.drop, equal.upper_bound, equal.holds) == (0.0, 0.0, True)
    # An unpaired comparison of two 90 % models on 2000 samples could not exclude a drop of 1.5 points.
    assert noninferiority(ACCURACY, original, nearly, targets, margin=0.005).holds
    assert not noninferiority(ACCURACY, original, classified(rng, targets, 0.8), targets, margin=0.05).holds
    values = rng.normal(size=500)
    worse = noninferiority(RMSE, values + 0.1, values + 0.3, values, margin=0.1)
    assert worse.drop == pytest.approx(0.2)
    assert not worse.holds
