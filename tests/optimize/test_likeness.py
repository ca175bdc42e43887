"""Old samples stand in for fresh ones only where the model finds them as hard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from leanloop.bundle import Bundle, Split
from leanloop.optimize.likeness import find_likeness

LEAST = 256

Shift = Callable[[np.ndarray], np.ndarray]


def noisy(images: np.ndarray) -> np.ndarray:
    return images + 0.35 * np.random.default_rng(1).standard_normal(images.shape, np.float32)


def brighter(images: np.ndarray) -> np.ndarray:
    return np.clip(images + np.float32(0.5), 0, 1)


def turned(images: np.ndarray) -> np.ndarray:
    return np.rot90(images, axes=(2, 3)).copy()


def scrambled(images: np.ndarray) -> np.ndarray:
    order = np.random.default_rng(0).permutation(images[0].size)
    return images.reshape(len(images), -1)[:, order].reshape(images.shape)


def asked(bundle: Bundle, shift: Shift, rows: slice | np.ndarray = slice(None)) -> Split:
    test = bundle.split("test").take(rows)
    return Split("train", {"image": shift(test.inputs["image"])}, test.targets)


@pytest.mark.parametrize("shift", [noisy, brighter])
def test_noise_and_brightness_are_taken_over_to_old_samples(bundle: Bundle, shift: Shift) -> None:
    fresh = asked(bundle, shift)
    likeness = find_likeness(bundle, fresh, seed=0)
    assert likeness is not None
    clean = bundle.split("validation")
    alike = Split("x", {"image": likeness.apply(clean.inputs["image"], 1)}, clean.targets)
    module = bundle.module()
    cost = bundle.score(bundle.predict(module, fresh), fresh) - bundle.score(bundle.predict(module, alike), alike)
    assert abs(cost) < 0.15


def test_so_is_what_was_done_to_the_camera(bundle: Bundle) -> None:
    likeness = find_likeness(bundle, asked(bundle, turned), seed=0)
    assert likeness is not None
    assert likeness.view is not None
    assert abs(np.rad2deg(likeness.view.numbers[0])) == pytest.approx(90, abs=3)
    assert not likeness.noise.any(), "it is as clean as it was"


def test_a_scrambled_world_is_not(bundle: Bundle) -> None:
    assert find_likeness(bundle, asked(bundle, scrambled), seed=0) is None


def test_other_shares_of_classes_are_no_shift(bundle: Bundle) -> None:
    targets = bundle.split("test").targets
    assert targets is not None
    often = np.concatenate([np.flatnonzero(targets == 0), np.arange(len(targets))[:LEAST]])
    assert find_likeness(bundle, asked(bundle, lambda images: images, often), seed=0) is None


def test_few_samples_tell_too_little(bundle: Bundle) -> None:
    assert find_likeness(bundle, asked(bundle, noisy, slice(LEAST)), seed=0) is not None
    assert find_likeness(bundle, asked(bundle, noisy, slice(LEAST - 1)), seed=0) is None


def test_where_there_are_no_labels_or_several_inputs_nothing_is_taken_over(bundle: Bundle) -> None:
    fresh = asked(bundle, noisy)
    assert find_likeness(bundle, Split("train", fresh.inputs, None), seed=0) is None
    twice = {"image": fresh.inputs["image"], "again": fresh.inputs["image"]}
    assert find_likeness(bundle, Split("train", twice, fresh.targets), seed=0) is None
