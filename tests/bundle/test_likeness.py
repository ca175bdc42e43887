"""Old samples that look like fresh ones: mean and variances are those of the fresh ones, and the content stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from leanloop.bundle import Likeness, Split
from leanloop.bundle.fresh import mix

Shift = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def digits() -> np.ndarray:
    return (load_digits().images / 16).astype(np.float32)[:, None]


def noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images + 0.2 * rng.standard_normal(images.shape, np.float32)


def blur(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.mean([np.roll(images, step, 3) for step in (-1, 0, 1)], axis=0)


def brightness(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images + np.float32(0.4)


@pytest.fixture(params=[noise, blur, brightness])
def fitted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray, Likeness]:
    """Old images, the same under a shift, and the likeness; it has seen other images than it is judged by."""
    shift: Shift = request.param
    images, rng = digits(), np.random.default_rng(0)
    old, kept = images[:1_200], images[1_200:]
    return kept, shift(kept, rng), Likeness.fit(old, shift(old[::2], rng))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """How far apart the means and the standard deviations of the pixels are."""
    return float(np.abs(one.mean(0) - other.mean(0)).mean() + np.abs(one.std(0) - other.std(0)).mean())


def test_look_alikes_have_the_means_and_spreads_of_fresh_samples(
    fitted: tuple[np.ndarray, np.ndarray, Likeness],
) -> None:
    old, fresh, found = fitted
    alike = found.apply(old, seed=0)
    assert (alike.shape, alike.dtype) == (old.shape, old.dtype)
    assert distance(alike, fresh) < distance(old, fresh) / 2


def test_a_look_alike_shows_what_the_old_sample_shows(fitted: tuple[np.ndarray, np.ndarray, Likeness]) -> None:
    old, _, found = fitted
    alike = found.apply(old, seed=0).reshape(len(old), -1)
    distances = ((alike[:, None] - alike.mean(0) - (old.reshape(len(old), -1) - old.mean((0)).reshape(-1))) ** 2).sum(
        -1
    )
    assert (distances.argmin(1) == np.arange(len(old))).mean() > 0.8


def test_an_unshifted_world_is_left_as_it_is() -> None:
    images = digits()
    found = Likeness.fit(images[::2], images[1::2])
    change = found.apply(images, seed=0) - images
    assert np.abs(change).mean() < 0.03


@pytest.mark.parametrize("clipped", [False, True])
def test_white_noise_is_read_from_fresh_samples_also_where_the_range_cut_it_off(clipped: bool) -> None:
    images, sigma = digits(), 0.25
    fresh = images + sigma * np.random.default_rng(0).standard_normal(images.shape, np.float32)
    if clipped:
        fresh = fresh.clip(0, 1)
    found = Likeness.fit(images[::2], fresh[1::2])
    assert np.median(found.noise) == pytest.approx(sigma, rel=0.1)
    assert (found.scale == 1).mean() > 0.8
    moved = np.abs(found.fresh_mean - found.old_mean).mean()
    assert moved < 0.02, "what the clipping adds to the mean is not added twice"


def test_it_is_kept_in_a_file_and_gives_the_same_again(tmp_path: Path) -> None:
    images = digits()
    found = Likeness.fit(images, noise(images, np.random.default_rng(0)))
    found.save(tmp_path / "likeness.npz")
    again = Likeness.load(tmp_path / "likeness.npz")
    np.testing.assert_array_equal(again.apply(images, 7), found.apply(images, 7))
    assert (again.apply(images, 7) != found.apply(images, 8)).any()


def test_look_alikes_join_the_owners_samples_and_the_teacher_sees_the_clean_ones() -> None:
    images, labels = digits(), load_digits().target
    owners, fresh = Split("train", {"image": images}, labels), Split("train", {"image": images[:300] + 5}, labels[:300])
    mixed = mix("train", owners, fresh, [], Likeness.fit(images, images[:300] + 5))
    assert mixed.split is not None
    assert mixed.clean is not None
    seen, clean = mixed.split.inputs["image"], mixed.clean.inputs["image"]
    alike = (seen != clean).any((1, 2, 3))
    assert len(seen) == len(images) + alike.sum() + mixed.fresh.sum()
    assert alike.sum() == len(images)
    assert mixed.fresh.sum() == 300
    assert not alike[mixed.fresh].any()
    np.testing.assert_array_equal(mixed.alike, alike)
    assert (seen[alike].mean((1, 2, 3)) > 4).all()
    assert (clean[alike].mean((1, 2, 3)) < 1).all()
    known = {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    assert mixed.split.targets is not None
    assert {
        (image.tobytes(), int(label)) for image, label in zip(clean[alike], mixed.split.targets[alike], strict=True)
    } == known


def test_other_splits_have_no_look_alikes() -> None:
    images = digits()
    owners, fresh = (Split("x", {"image": values}, None) for values in (images, images[:300] + 5))
    found = Likeness.fit(images, images[:300] + 5)
    for name in ("calibration", "validation"):
        mixed = mix(name, owners, fresh, [], found)  # type: ignore[arg-type]
        assert mixed.split is mixed.clean
