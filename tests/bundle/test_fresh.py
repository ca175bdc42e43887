"""Splits of a revised bundle: live samples beside the owner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leanloop.bundle import Bundle, Split, pack, seal
from leanloop.bundle.fresh import Mixed, mix, repeated
from leanloop.core.errors import DataError
from tests.conftest import Project


def split(name: str, count: int, value: float) -> Split:
    return Split(name, {"x": np.full((count, 2), value, np.float32)}, np.arange(count) % 3)


def counts(found: Mixed) -> tuple[int, int]:
    mixed, fresh = found.split, found.fresh
    assert mixed is not None
    assert len(mixed) == len(fresh)
    assert (mixed.inputs["x"][fresh] == 1).all()
    assert (mixed.inputs["x"][~fresh] == 0).all()
    return int((~fresh).sum()), int(fresh.sum())


@pytest.mark.parametrize(
    ("name", "old", "fresh", "mixed"),
    [
        ("train", 9_000, 100, (2_000, 100)),
        ("train", 50_000, 4_000, (40_000, 4_000)),
        ("train", 30, 100, (30, 100)),
        ("calibration", 500, 100, (100, 100)),
        ("calibration", 50, 100, (50, 50)),
        ("validation", 9_000, 100, (5_000, 100)),
        ("validation", 9_000, 6_000, (6_000, 6_000)),
        ("validation", 250, 100, (250, 100)),
    ],
)
def test_old_and_fresh_are_mixed_as_the_split_needs(name: str, old: int, fresh: int, mixed: tuple[int, int]) -> None:
    assert counts(mix(name, split(name, old, 0), split(name, fresh, 1))) == mixed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "fresh", "alike", "times"),
    [
        (0, 10, False, 1),
        (20, 10, False, 1),
        (80, 10, False, 4),
        (900, 10, False, 10),
        (7, 0, False, 1),
        (80, 10, True, 1),
        (300, 10, True, 5),
        (900, 10, True, 10),
    ],
)
def test_fresh_samples_come_again_until_a_third_is_fresh_or_less_where_there_are_look_alikes(
    old: int, fresh: int, alike: bool, times: int
) -> None:
    mask = np.random.default_rng(0).permutation(np.arange(old + fresh) < fresh)
    rows, counts = np.unique(repeated(mask, alike=alike), return_counts=True)
    np.testing.assert_array_equal(rows, np.arange(old + fresh))
    np.testing.assert_array_equal(counts, np.where(mask, times, 1))


def test_the_golden_samples_of_a_larger_revision_hold_those_of_a_smaller() -> None:
    old = Split("validation", {"x": np.arange(9_000, dtype=np.float32)}, None)
    golden = []
    for count in (10, 6_000):
        mixed = mix("validation", old, Split("validation", {"x": np.full(count, -1, np.float32)}, None))
        assert mixed.split is not None
        golden.append(set(mixed.split.inputs["x"][~mixed.fresh].tolist()))
    assert golden[0] < golden[1]


def test_what_an_earlier_revision_learnt_is_not_forgotten() -> None:
    mixed = mix("train", split("train", 100, 0), split("train", 50, 1), [split("train", 100, 2)])
    assert mixed.split is not None
    old = mixed.split.inputs["x"][~mixed.fresh, 0]
    assert (old == 0).any()
    assert (old == 2).any()


def test_a_split_without_fresh_samples_and_test_stay_as_they_are() -> None:
    old = split("test", 40, 0)
    assert mix("test", old, split("test", 10, 1)).split is old
    assert mix("train", old, None).split is old
    assert mix("train", None, old).split is old
    assert mix("train", None, None).split is None


def revised(project: Project, folder: Path, **arrays: np.ndarray) -> Bundle:
    manifest = pack(project.settings, project.folder, folder)
    rng = np.random.default_rng(0)
    content = {
        f"{name}/{part}": values
        for name in ("train", "calibration", "validation")
        for part, values in (("x", rng.normal(size=(40, 6)).astype(np.float32)), ("target", rng.integers(0, 3, 40)))
    }
    np.savez(folder / "fresh-1.npz", allow_pickle=False, **(content | arrays))
    seal(folder, manifest.model_copy(update={"parent": manifest.digest, "fresh": ("fresh-1.npz",), "digest": ""}))
    return Bundle(folder)


def test_a_revised_bundle_knows_its_parts(project: Project, tmp_path: Path) -> None:
    original = pack(project.settings, project.folder, tmp_path / "original")
    bundle = revised(project, tmp_path / "bundle")
    assert bundle.manifest.parent == original.digest != bundle.manifest.digest
    assert bundle.manifest.splits["validation"].samples == 64 + 40
    recent = bundle.fresh_rows("validation")
    assert recent.sum() == 40
    assert len(bundle.split("test")) == 64
    assert not bundle.fresh_rows("test").any()
    np.testing.assert_array_equal(bundle.old_rows("validation"), ~recent)
    assert not Bundle(tmp_path / "original").fresh_rows("validation").any()
    assert Bundle(tmp_path / "original").old_rows("train").all()


def test_fresh_samples_are_checked_like_the_owners(project: Project, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another shape"):
        revised(project, tmp_path / "bundle", **{"train/x": np.zeros((40, 5), np.float32)})
