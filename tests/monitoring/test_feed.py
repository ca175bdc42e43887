"""Every captured row is in exactly one window, in order, through restarts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leanloop.monitoring.collect import rows_of
from leanloop.monitoring.feed import Feed, Window
from leanloop.serving import ModelSpec, TensorSpec
from leanloop.serving.capture_format import Record

SPEC = ModelSpec(name="net", inputs=(TensorSpec(name="x", shape=(2,)),), outputs=(TensorSpec(name="y", shape=()),))


class Traffic:
    """Writes captured files as the collector does; row i holds i."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "model=net/version=2/date=2026-11-22"
        self.folder.mkdir(parents=True)
        self.rows = self.files = 0

    def add(
        self, count: int, *, columns: int = 2, value: float | None = None, dtype: str = "float32", requests: int = 1
    ) -> None:
        numbers = np.arange(self.rows, self.rows + count)
        x = np.repeat(numbers[:, None], columns, axis=1).astype(np.float32)
        if value is not None:
            x[0] = value
        records = [
            Record(
                f"r{self.files}",
                "net",
                2,
                float(rows[0]),
                0.1,
                {"x": x[rows - self.rows].astype(dtype)},
                {"y": x[rows - self.rows, 0]},
            )
            for rows in np.array_split(numbers, requests)
        ]
        pq.write_table(rows_of(records), self.folder / f"{self.files:05d}.parquet")
        self.rows += count
        self.files += 1


def feed(root: Path, *, size: int, used: Mapping[str, int] | None = None, since: float = 0.0) -> Feed:
    return Feed(root, SPEC, 2, size, max_age_seconds=60.0, used=dict(used or {}), since=since)


def numbers(window: Window) -> list[int]:
    return [int(value) for value in window.inputs["x"][:, 0]]


@settings(max_examples=25)
@given(counts=st.lists(st.integers(1, 25), max_size=8), size=st.integers(2, 10), stop=st.integers(0, 6))
def test_no_row_is_lost_or_seen_twice_even_when_the_service_dies(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], size: int, stop: int
) -> None:
    root = tmp_path_factory.mktemp("rows")
    traffic, used, seen = Traffic(root), dict[str, int](), list[int]()
    live = feed(root, size=size)
    for index, count in enumerate(counts):
        if index == stop:
            live = feed(root, size=size, used=used)
        traffic.add(count)
        for window in live.windows(0.0, most=100):
            assert len(window) == size
            seen += numbers(window)
            used.update(window.taken)
    assert live.waiting == traffic.rows % size
    for window in live.windows(1e9, most=100):
        seen += numbers(window)
    assert seen == list(range(traffic.rows))


def test_a_window_that_does_not_fill_is_given_when_it_is_old(tmp_path: Path) -> None:
    Traffic(tmp_path).add(3)
    live = feed(tmp_path, size=100)
    assert list(live.windows(60.0, most=9)) == []
    (window,) = live.windows(60.1, most=9)
    assert numbers(window) == [0, 1, 2]
    assert list(live.windows(1e9, most=9)) == []


def test_more_than_can_be_judged_is_skipped_counted_and_used_up(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    for _ in range(5):
        traffic.add(7)
    live = feed(tmp_path, size=5)
    windows = list(live.windows(0.0, most=2))
    assert [numbers(window) for window in windows] == [[25, 26, 27, 28, 29], [30, 31, 32, 33, 34]]
    assert live.skipped == 5
    used = windows[0].taken | windows[1].taken
    assert used == {f"{number:05d}.parquet": 7 for number in range(5)}
    assert list(feed(tmp_path, size=5, used=used).windows(0.0, most=2)) == []


def test_broken_records_are_counted_and_kept_from_judgement(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.add(4, value=np.nan)
    traffic.add(3, columns=5)
    traffic.add(3)
    traffic.add(2, dtype="float64")
    (window,) = feed(tmp_path, size=12).windows(0.0, most=9)
    assert window.broken == 6
    assert numbers(window) == [1, 2, 3, 7, 8, 9]
    assert window.inputs["x"].shape == (6, 2)
    assert list(window.request_ids) == ["r0"] * 3 + ["r2"] * 3


def test_a_window_whose_judgement_fails_is_given_again(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.add(23)
    live = feed(tmp_path, size=5)
    with pytest.raises(ZeroDivisionError):
        for _ in live.windows(0.0, most=2):
            raise ZeroDivisionError
    assert (live.used, live.waiting, live.skipped) == ({}, 23, 0)
    assert [numbers(window) for window in live.windows(0.0, most=2)] == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    assert (live.used, live.waiting, live.skipped) == ({"00000.parquet": 20}, 3, 2)


def test_a_window_of_nothing_but_broken_records_is_empty(tmp_path: Path) -> None:
    Traffic(tmp_path).add(4, columns=3)
    (window,) = feed(tmp_path, size=4).windows(0.0, most=9)
    assert (len(window), window.broken) == (0, 4)


def test_what_the_quota_took_is_not_missed(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.add(3)
    live = feed(tmp_path, size=5)
    assert list(live.windows(0.0, most=9)) == []
    next(traffic.folder.glob("*.parquet")).unlink()
    traffic.add(5)
    (window,) = live.windows(0.0, most=9)
    assert numbers(window) == [3, 4, 5, 6, 7]


def test_what_went_into_windows_can_be_read_again(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.add(4)
    traffic.add(5)
    used = dict[str, int]()
    for window in feed(tmp_path, size=3).windows(0.0, most=2):
        used.update(window.taken)
    live = feed(tmp_path, size=3)
    list(live.windows(0.0, most=2))
    assert numbers(live.tail(4)) == [5, 6, 7, 8]
    again = feed(tmp_path, size=3, used=used)
    assert numbers(again.tail(4)) == [5, 6, 7, 8]
    assert numbers(again.tail(99)) == list(range(9))
    assert len(feed(tmp_path, size=3).tail(4)) == 0


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    live = feed(tmp_path, size=5)
    for _ in range(20):
        traffic.add(5)
        assert len(list(live.windows(0.0, most=9))) == 1
        for path in sorted(traffic.folder.glob("*.parquet"))[:-2]:
            path.unlink()
    list(live.windows(0.0, most=9))
    assert sorted(live.used) == ["00018.parquet", "00019.parquet"]
    assert live._seen == set(live.used)


def test_what_was_asked_before_its_time_is_neither_given_nor_read_again(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.add(4)
    traffic.add(8, requests=4)  # at 4, 6, 8 and 10
    traffic.add(3)
    earlier = feed(tmp_path, size=2)
    used = dict[str, int]()
    for window in earlier.windows(0.0, most=9):
        used.update(window.taken)
    live = feed(tmp_path, size=2, used=used, since=8.0)
    assert list(live.windows(0.0, most=9)) == []
    assert live.waiting == 1
    assert numbers(live.tail(99)) == [8, 9, 10, 11, 12, 13]
    anew = feed(tmp_path, size=3, since=8.0)
    assert [numbers(window) for window in anew.windows(0.0, most=9)] == [[8, 9, 10], [11, 12, 13]]
    assert anew.skipped == 0
