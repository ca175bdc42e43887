from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanloop.bundle import make_metric
from leanloop.select.paired import metric_drop, share_drop
from leanloop.select.svg import spanning

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(answers)
def test_bounds_enclose_the_drop_and_turn_round_when_the_two_change_places(pairs) -> None:
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    drop, turned = share_drop(first, second, 0.95), share_drop(second, first, 0.95)
    assert drop.low < drop.value < drop.high
    assert drop.value == pytest.approx(first.mean() - second.mean())
    assert (drop.low, drop.high) == pytest.approx((-turned.high, -turned.low))


def test_bounds_agree_with_a_worked_example() -> None:
    # 100 samples, 10 lost, 4 gained: centre 6/102, spread 1.6449 * sqrt((16/102 - (6/102)^2) / 102).
    first = np.array([True] * 10 + [False] * 4 + [True] * 86)
    second = np.array([False] * 10 + [True] * 4 + [True] * 86)
    drop = share_drop(first, second, 0.95)
    assert (drop.value, drop.low, drop.high) == pytest.approx((0.06, -0.004965, 0.122612), abs=1e-6)


def test_more_samples_say_it_more_surely() -> None:
    first, second = np.array([True] * 19 + [False]), np.array([True] * 18 + [False] * 2)
    short, long = share_drop(first, second, 0.95), share_drop(np.tile(first, 50), np.tile(second, 50), 0.95)
    assert long.high - long.low < short.high - short.low
    assert short.low < 0 < long.low


def test_a_larger_error_is_a_drop() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(500, 1))
    original = truth + generator.normal(scale=0.10, size=truth.shape)
    variant = truth + generator.normal(scale=0.20, size=truth.shape)
    metric = make_metric("rmse", "regression")
    drop = metric_drop(metric, truth, original, variant, classification=False, confidence=0.95)
    assert 0 < drop.low < drop.value < drop.high
    assert drop.value == pytest.approx(0.1, abs=0.02)


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20), st.booleans())
def test_a_scale_shows_every_value_and_its_ticks_lie_within(values, linear) -> None:
    scale = spanning(values, 0, 100, margin=0.1, linear=linear)
    assert all(-1e-6 <= scale(value) <= 100 + 1e-6 for value in values)
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in scale.ticks())
