"""The judgement on constructed traffic: quiet without drift at every window size, and awake with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanloop.monitoring.judge import (
    TOGETHER,
    LiveAccuracy,
    Persistence,
    Reference,
    accuracy_state,
    holm,
    judge_window,
    live_accuracy,
    wilson,
)
from leanloop.monitoring.judge.distribution import Distribution, calibrated_size, sorted_quantile
from leanloop.monitoring.judge.features import probabilities
from leanloop.monitoring.judge.mmd import KernelTest


def traffic(
    rng: np.random.Generator, samples: int, *, brighter: float = 0.0, top: float = 0.1
) -> tuple[dict, np.ndarray]:
    """Blurred random images and the answers of a ten-class model; `top` is the share of class 0."""
    images = rng.normal(size=(samples, 1, 12, 12))
    images = images + np.roll(images, 1, axis=3) + brighter
    classes = rng.choice(10, size=samples, p=[top] + [(1 - top) / 9] * 9)
    logits = rng.normal(size=(samples, 10)) + 5 * np.eye(10)[classes]
    return {"image": images.astype(np.float32)}, logits.astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.fit(*traffic(np.random.default_rng(0), 5_000), classifies=True)


@pytest.mark.parametrize("samples", [100, 500])
def test_quiet_traffic_raises_no_alarm_at_any_window_size(reference: Reference, samples: int) -> None:
    rng = np.random.default_rng(1)
    alarms = sum(bool(judge_window(reference, *traffic(rng, samples)).drifts) for _ in range(100))
    assert alarms <= 2


@pytest.mark.parametrize(
    ("change", "feature"), [({"brighter": 0.3}, "image.brightness"), ({"top": 0.3}, "output.class")]
)
def test_a_shift_is_seen_and_named(reference: Reference, change: dict[str, float], feature: str) -> None:
    rng = np.random.default_rng(2)
    windows = [judge_window(reference, *traffic(rng, 500, **change)) for _ in range(10)]
    assert sum(bool(window.drifts) for window in windows) >= 9
    assert all(window.features[0].name == feature for window in windows if window.drifts)


def test_a_small_window_is_not_judged(reference: Reference) -> None:
    window = judge_window(reference, *traffic(np.random.default_rng(3), 50, brighter=9))
    assert window.drifts is None
    assert window.features == ()


def test_what_shows_in_no_single_feature_shows_together() -> None:
    rng = np.random.default_rng(6)

    def pairs(samples: int, *, bound: bool) -> tuple[dict, np.ndarray]:
        rows = rng.normal(size=(samples, 2))
        if bound:
            rows[:, 1] = rows[:, 0]
        return {"row": rows}, rng.normal(size=(samples, 1))

    watched = Reference.fit(*pairs(4_000, bound=False), classifies=False)
    turned = judge_window(watched, *pairs(500, bound=True))
    names = {feature.name for feature in turned.features if feature.drifts}
    assert TOGETHER in names
    assert not names & {"row.column0", "row.column1", "output.0"}


def test_p_values_of_the_kernel_test_are_uniform_without_drift() -> None:
    rng = np.random.default_rng(7)
    p_values = []
    for _ in range(40):
        test = KernelTest.fit(rng.normal(size=(200, 3)))
        p_values.append(test.p_value(test.distance(rng.normal(size=(50, 3))), 50))
    for level in (0.1, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(
            level, abs=3.5 * np.sqrt(level * (1 - level) / len(p_values))
        )


@given(st.integers(1, 100_000))
def test_windows_of_about_one_size_share_a_calibration_that_is_not_too_strict(window: int) -> None:
    assert 0.95 * window <= calibrated_size(window) <= window
    assert len({calibrated_size(size) for size in range(475, 500)}) <= 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_of_what_is_in_order_is_numpys(values: list[float], share: float) -> None:
    assert sorted_quantile(np.sort(values), share) == pytest.approx(np.quantile(values, share), abs=1e-12)


@pytest.mark.parametrize("classes", [False, True])
def test_p_values_are_uniform_without_drift(classes: bool) -> None:
    rng = np.random.default_rng(5)

    def draw(samples: int) -> np.ndarray:
        return rng.integers(3, size=samples) if classes else rng.normal(size=samples)

    p_values = []
    for _ in range(300):
        # Equal counts, so that all trials share one calibration.
        distribution = (
            Distribution.of_classes(np.arange(2_001) % 3, 3) if classes else Distribution.of_numbers(draw(2_000))
        )
        p_values.append(distribution.p_value(distribution.distance(draw(200)), 200))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(
            level, abs=3.5 * np.sqrt(level * (1 - level) / 300)
        )


def test_a_class_that_was_never_seen_is_far_off() -> None:
    distribution = Distribution.of_classes(np.zeros(500, int), 2)
    assert distribution.p_value(distribution.distance(np.full(100, 7)), 100) < 1e-3


def test_holm_is_between_bonferroni_and_none() -> None:
    p_values = {"a": 0.001, "b": 0.02, "c": 0.03, "d": 0.9}
    assert holm(p_values, 0.05) == {"a"}
    assert holm({"a": 0.001, "b": 0.016, "c": 0.02, "d": 0.9}, 0.05) == {"a", "b", "c"}
    assert holm({}, 0.05) == set()


def test_one_window_never_decides_and_three_quiet_ones_clear() -> None:
    watch = Persistence(raise_after=2, of=3, clear_after=3)
    states = [
        watch.add(drifts) for drifts in (None, False, True, False, None, True, False, False, True, False, False, False)
    ]
    assert states[:5] == ["unknown", "ok", "ok", "ok", "ok"]
    assert states[5] == "drifting"
    assert states[6:11] == ["drifting"] * 5
    assert states[11] == "ok"


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))
def test_a_state_changes_for_its_reason_only(
    windows: list[bool], raise_after: int, more: int, clear_after: int
) -> None:
    watch, before = Persistence(raise_after, raise_after + more, clear_after), "unknown"
    for index, drifts in enumerate(windows):
        state = watch.add(drifts)
        seen = windows[: index + 1]
        if (before, state) == ("ok", "drifting"):
            assert sum(seen[-(raise_after + more) :]) >= raise_after
        if (before, state) == ("drifting", "ok"):
            assert not any(seen[-clear_after:])
        before = state


def test_the_time_between_false_alarms_is_told() -> None:
    assert Persistence(2, 3).windows_between_false_alarms(0.005) == pytest.approx(1 / (3 * 0.005**2 * 0.995 + 0.005**3))
    with pytest.raises(ValueError, match="raise_after"):
        Persistence(4, 3)


def test_accuracy_counts_labelled_records_only() -> None:
    found = live_accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, -1]))
    assert (found.labelled, found.records, found.coverage) == (3, 4, 0.75)
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx(2 / 3)
    assert live_accuracy(np.array([1]), np.array([-1])).accuracy is None


@pytest.mark.parametrize(
    ("right", "labelled", "state"),
    [(30, 100, "falling"), (91, 100, "ok"), (10, 40, "unknown"), (850, 1000, "falling"), (895, 1000, "ok")],
)
def test_accuracy_falls_when_it_matters_and_is_no_chance(right: int, labelled: int, state: str) -> None:
    live = LiveAccuracy(labelled, 1000, wilson(right, labelled))
    assert accuracy_state(live, 0.94, 5_000, level=0.005, max_drop=0.05) == state
    assert accuracy_state(live, None, 0, level=0.005, max_drop=0.05) == "unknown"


def test_an_accuracy_that_few_samples_told_may_have_been_lower() -> None:
    """Seen after a repair: 92.5 % of 750 samples that had chosen it, 90.3 % of all others, 87.2 % of one window."""
    live = LiveAccuracy(500, 500, wilson(436, 500))
    assert accuracy_state(live, 0.925, 5_000, level=0.005, max_drop=0.05) == "falling"
    assert accuracy_state(live, 0.925, 750, level=0.005, max_drop=0.05) == "ok"
    worse = LiveAccuracy(500, 500, wilson(415, 500))
    assert accuracy_state(worse, 0.925, 750, level=0.005, max_drop=0.05) == "falling"


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_stays_inside_and_holds_the_share(trials: int, share: float) -> None:
    successes = round(share * trials)
    found = wilson(successes, trials)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0


@given(st.integers(1, 20), st.integers(1, 6), st.randoms(use_true_random=False))
def test_probabilities_are_a_distribution(samples: int, classes: int, random) -> None:
    scores = np.array([[random.uniform(-30, 30) for _ in range(classes)] for _ in range(samples)])
    chances = probabilities(scores)
    assert chances.shape == (samples, max(classes, 2))
    assert np.allclose(chances.sum(axis=1), 1)
    assert np.allclose(probabilities(chances), chances) or classes == 1
