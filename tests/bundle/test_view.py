"""A camera that was moved: the view is read from mean pictures, and old pictures are seen through it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits

from leanloop.bundle import View

Change = Callable[[np.ndarray], np.ndarray]


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Digits of 16 by 20 pixels, so that a turn that takes both sides for one length is found out."""
    digits = load_digits()
    small = (digits.images / 16).astype(np.float32)[:, None]
    large = ndimage.zoom(small, (1, 1, 2, 2), order=1, mode="nearest", grid_mode=True)
    return np.pad(large, ((0, 0), (0, 0), (0, 0), (2, 2))), digits.target


def turned(images: np.ndarray) -> np.ndarray:
    return ndimage.rotate(images, 25, axes=(3, 2), reshape=False, order=1, mode="constant", cval=0)


def turned_before_a_wall(images: np.ndarray) -> np.ndarray:
    return ndimage.rotate(images, -25, axes=(3, 2), reshape=False, order=1, mode="nearest")


def upside_down(images: np.ndarray) -> np.ndarray:
    return images[:, :, ::-1, ::-1].copy()


def blurred(images: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(images, (0, 0, 1.2, 1.2), mode="constant")


def moved_and_darker(images: np.ndarray) -> np.ndarray:
    return 0.6 * np.roll(images, 2, axis=3) + 0.1


CHANGES: dict[Change, tuple[int, float]] = {
    turned: (0, np.deg2rad(25)),
    turned_before_a_wall: (0, np.deg2rad(-25)),
    blurred: (6, 1.2),
    moved_and_darker: (4, -0.2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_done_to_the_camera_is_read_from_the_pictures(change: Change) -> None:
    images, classes = pictures()
    fresh = change(images[1::2])
    view = View.fit(images[::2], classes[::2], fresh, classes[1::2])
    assert view is not None
    number, expected = CHANGES[change]
    assert view.numbers[number] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("change", [turned, turned_before_a_wall, upside_down, blurred])
def test_old_pictures_look_like_fresh_ones_through_it(change: Change) -> None:
    images, classes = pictures()
    view = View.fit(images[::2], classes[::2], change(images[1::2]), classes[1::2])
    assert view is not None
    seen, wanted = view.apply(images[:200]), change(images[:200])
    assert (seen.shape, seen.dtype) == (images[:200].shape, images.dtype)
    assert ((seen - wanted) ** 2).mean() < 0.1 * ((images[:200] - wanted) ** 2).mean()


def test_a_world_that_only_became_noisy_or_brighter_is_seen_as_before() -> None:
    images, classes = pictures()
    rng = np.random.default_rng(0)
    for fresh in (images[1::2], images[1::2] + 0.4, images[1::2] + rng.normal(0, 0.3, images[1::2].shape)):
        assert View.fit(images[::2], classes[::2], fresh.astype(np.float32), classes[1::2]) is None


def test_what_no_camera_does_is_not_taken_for_a_view() -> None:
    images, classes = pictures()
    order = np.random.default_rng(0).permutation(images[0].size)
    scrambled = images.reshape(len(images), -1)[:, order].reshape(images.shape)
    assert View.fit(images[::2], classes[::2], scrambled[1::2], classes[1::2]) is None


@pytest.mark.parametrize(
    ("shape", "fits"), [((1, 28, 28), True), ((3, 8, 9), True), ((28, 28, 1), False), ((64,), False)]
)
def test_pictures_are_told_by_their_shape(shape: tuple[int, ...], fits: bool) -> None:
    assert View.fits(shape) == fits
