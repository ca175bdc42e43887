"""Windows: live rows in disjoint pieces of equal size, so that every verdict rests on as much as the one before."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa


class Windows:
    """Cuts the rows of one model version into windows.

    A window is whole when it has ``size`` rows. One that does not fill in time is given as it is, so that sparse
    traffic is looked at, too; whether it suffices is for the judgement to say.

    Args:
        size: Rows per window.
        max_age_seconds: Of a window's first row, before the window is given although it is not full.
    """

    def __init__(self, size: int, max_age_seconds: float) -> None:
        self._size, self._max_age = size, max_age_seconds
        self._waiting: pa.Table | None = None

    def __len__(self) -> int:
        """Rows that wait for their window to fill."""
        return 0 if self._waiting is None else self._waiting.num_rows

    def add(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Take rows, as `leanloop.monitoring.collect` writes them, in order of time; give the windows they fill."""
        together = rows if self._waiting is None else pa.concat_tables([self._waiting, rows])
        whole = together.num_rows - together.num_rows % self._size
        self._waiting = together.slice(whole) if whole < together.num_rows else None
        for start in range(0, whole, self._size):
            yield together.slice(start, self._size)

    def overdue(self, now: float) -> pa.Table | None:
        """The unfilled window whose first row is older than allowed at a time in seconds; None when there is none."""
        waiting = self._waiting
        if waiting is None or now - waiting.column("time")[0].as_py() <= self._max_age:
            return None
        self._waiting = None
        return waiting
