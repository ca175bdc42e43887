"""Every row is in exactly one window, in order."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from leanloop.monitoring.windows import Windows


def rows(first: int, count: int) -> pa.Table:
    return pa.table({"time": pa.array(range(first, first + count), pa.float64())})


@given(st.lists(st.integers(0, 25), max_size=12), st.integers(1, 10))
def test_no_row_is_lost_or_seen_twice(counts: list[int], size: int) -> None:
    windows, seen, first = Windows(size, 60.0), [], 0
    for count in counts:
        found = list(windows.add(rows(first, count)))
        assert all(window.num_rows == size for window in found)
        seen += [time for window in found for time in window.column("time").to_pylist()]
        first += count
    assert len(windows) < size
    assert len(windows) == first % size
    rest = windows.overdue(now=1e9)
    seen += [] if rest is None else rest.column("time").to_pylist()
    assert seen == [float(index) for index in range(first)]


def test_a_window_that_does_not_fill_is_given_when_it_is_old() -> None:
    windows = Windows(100, max_age_seconds=60)
    assert list(windows.add(rows(1_000, 3))) == []
    assert windows.overdue(now=1_060.0) is None
    overdue = windows.overdue(now=1_060.1)
    assert overdue is not None
    assert overdue.num_rows == 3
    assert windows.overdue(now=2_000.0) is None
