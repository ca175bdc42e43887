"""The demo's shifts do what their names say, to the degree that their severity says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leanloop.core.errors import SettingsError
from leanloop.pipelines.demo.shifts import drawn, shifted

SHIFTS = ("brightness", "rotation", "noise", "blur", "class-mix", "none")


def images(seed: int = 0, samples: int = 40) -> np.ndarray:
    """A bright disc off the centre, on a dark ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    discs = [((x - a) ** 2 + (y - b) ** 2 < 16) * 0.5 for a, b in rng.uniform(8, 20, size=(samples, 2))]
    return np.stack(discs)[:, None].astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHIFTS), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_shift_keeps_shape_and_range_and_repeats_with_its_seed(shift: str, severity: int, seed: int) -> None:
    first, second = (shifted(images(), shift, severity, np.random.default_rng(seed)) for _ in range(2))  # type: ignore[arg-type]
    assert first.shape == (40, 1, 28, 28)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert np.array_equal(first, second)
    changes = not np.array_equal(first, images())
    assert changes == (shift not in ("none", "class-mix"))


@pytest.mark.parametrize("severity", range(1, 6))
def test_each_shift_has_the_size_that_is_promised(severity: int) -> None:
    rng = np.random.default_rng(0)
    ground = np.full((50, 1, 28, 28), 0.4, dtype=np.float32)
    assert shifted(ground, "brightness", severity, rng) == pytest.approx(0.4 + 0.1 * severity, abs=1e-6)
    noisy = shifted(ground + 0.1, "noise", severity, rng)
    assert noisy.std() == pytest.approx(0.04 * severity, rel=0.03)
    point = np.zeros((1, 1, 29, 29), dtype=np.float32)
    point[0, 0, 14, 14] = 1
    across = shifted(point, "blur", severity, rng)[0, 0].sum(axis=0)
    # A Gaussian falls to this share one pixel off its middle.
    assert across[15] / across[14] == pytest.approx(np.exp(-1 / (2 * (0.4 * severity) ** 2)), rel=0.02)


@pytest.mark.parametrize("severity", range(1, 6))
def test_rotation_turns_by_six_degrees_a_step(severity: int) -> None:
    bar = np.zeros((1, 1, 28, 28), dtype=np.float32)
    bar[..., 13:15, 14:] = 1
    turned = shifted(bar, "rotation", severity, np.random.default_rng(0))[0, 0]
    y, x = np.mgrid[:28, :28] - 13.5
    angle = np.degrees(np.arctan2((turned * y).sum(), (turned * x).sum()))
    assert abs(angle) == pytest.approx(6 * severity, abs=0.5)


@given(st.integers(1, 5), st.integers(1, 200), st.integers(0, 9))
def test_the_class_mix_has_the_share_that_is_promised_and_draws_nobody_twice(
    severity: int, count: int, top: int
) -> None:
    classes = np.arange(2_000) % 10
    found = drawn(classes, count, "class-mix", severity, np.random.default_rng(count), top=top)
    assert len(set(found.tolist())) == len(found) == count
    assert (classes[found] == top).sum() == round((0.1 + 0.1 * severity) * count)


def test_other_shifts_draw_all_alike() -> None:
    classes = np.arange(2_000) % 10
    found = drawn(classes, 2_000, "noise", 3, np.random.default_rng(0))
    assert sorted(found.tolist()) == list(range(2_000))


@pytest.mark.parametrize(("shift", "severity"), [("fog", 1), ("noise", 0), ("noise", 6)])
def test_what_is_no_shift_is_refused(shift: str, severity: int) -> None:
    with pytest.raises(SettingsError, match="no such"):
        shifted(images(), shift, severity, np.random.default_rng(0))  # type: ignore[arg-type]


def test_more_samples_than_there_are_is_refused() -> None:
    with pytest.raises(SettingsError, match="not enough"):
        drawn(np.arange(100) % 10, 50, "class-mix", 5, np.random.default_rng(0))
