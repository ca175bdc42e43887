"""Windows of captured rows: disjoint pieces of equal size in order of arrival, each judged once, through every restart.

Which rows went into judged windows is kept in the database, written in the same transaction as the verdict
(`leanloop.monitoring.watch`): a row is neither judged twice nor lost when the service dies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leanloop.monitoring.collect import files_of, misfit, tensor_of
from leanloop.serving.model_config import ModelSpec


@dataclass(frozen=True)
class Window:
    """Some records of one model version, as they were asked and answered.

    Attributes:
        request_ids: Of each record, [records].
        samples: Index of each record in its request, [records].
        times: Unix time of each record, [records].
        inputs: By name, [records, ...].
        outputs: By name, [records, ...].
        broken: Further records whose tensors have other shapes or types than the model's, or are not finite.
        taken: Rows of each captured file that are used up with this window.
    """

    request_ids: np.ndarray
    samples: np.ndarray
    times: np.ndarray
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    broken: int
    taken: Mapping[str, int]

    def __len__(self) -> int:
        """Records that can be judged."""
        return len(self.request_ids)


@dataclass
class _File:
    path: Path
    rows: int
    used: int

    @property
    def left(self) -> int:
        return self.rows - self.used


@dataclass
class Feed:
    """Cuts the captured rows of one model version into windows.

    A window is whole when it has ``size`` rows. One that does not fill in time is given as it is, so that sparse
    traffic is looked at, too; whether it suffices is for the judgement to say.

    Attributes:
        root: Folder of the rows of all models.
        spec: Name and tensors of the model.
        version: Which version.
        size: Rows per window.
        max_age_seconds: Of a window's first row, before the window is given although it is not full.
        used: Rows of each file that went into windows, by file name; kept up to date.
        since: Unix time of the release: what was asked before is none of its rows.
        skipped: Windows that were passed over, since more came than was asked for.
    """

    root: Path
    spec: ModelSpec
    version: int
    size: int
    max_age_seconds: float
    used: dict[str, int]
    since: float = 0.0
    skipped: int = 0
    _files: deque[_File] = field(default_factory=deque)
    _seen: set[str] = field(default_factory=set)

    @property
    def waiting(self) -> int:
        """Rows that wait for their window to fill."""
        return sum(file.left for file in self._files)

    def windows(self, now: float, *, most: int) -> Iterator[Window]:
        """The windows that are due at a Unix time; of more than ``most`` only the newest, the others are skipped.

        A window's rows are used up when the next one is asked for: one whose judgement failed is given again.
        """
        self._look()
        excess = max(0, self.waiting // self.size - most)
        while self.waiting - excess * self.size >= self.size:
            window = self._window(excess * self.size, self.size)
            yield window
            self._use(window.taken)
            self.skipped += excess
            excess = 0
        if self._files and now - self._first_time() > self.max_age_seconds:
            window = self._window(0, self.waiting)
            yield window
            self._use(window.taken)

    def tail(self, rows: int) -> Window:
        """The newest so many rows that went into windows before, as one window that uses up nothing."""
        tables: list[pa.Table] = []
        for path in reversed(self._paths()):
            missing = rows - sum(table.num_rows for table in tables)
            if missing <= 0:
                break
            used = self.used.get(path.name, 0)
            if used:
                first = max(self._earlier(path), used - missing)
                if first >= used:
                    break  # older files hold nothing else either
                tables.insert(0, pq.read_table(path, partitioning=None).slice(first, used - first))
        return _window(tables, self.spec, {})

    def _paths(self) -> list[Path]:
        return files_of(self.root, self.spec.name, self.version)

    def _look(self) -> None:
        while self._files and not self._files[0].path.exists():
            self._files.popleft()  # the quota took it; the oldest go first
        paths = self._paths()
        there = {path.name for path in paths}
        # What was taken away is never asked for again: a feed that forgets nothing grows for as long as it lives.
        self._seen &= there
        for gone in self.used.keys() - there:
            del self.used[gone]
        for path in paths:
            if path.name in self._seen:
                continue
            rows, used = pq.read_metadata(path).num_rows, self.used.get(path.name, 0)
            self._seen.add(path.name)
            if used < rows:
                used = max(used, self._earlier(path))
            if used < rows:
                self._files.append(_File(path, rows, used))

    def _earlier(self, path: Path) -> int:
        """Leading rows of a file that were asked before the release."""
        if not self.since:
            return 0
        times = pq.read_table(path, columns=["time"], partitioning=None).column("time").to_numpy()
        earlier = np.flatnonzero(times < self.since)
        return int(earlier[-1]) + 1 if len(earlier) else 0

    def _first_time(self) -> float:
        first = self._files[0]
        return float(pq.read_table(first.path, columns=["time"], partitioning=None).column("time")[first.used].as_py())

    def _pieces(self, skip: int, rows: int) -> Iterator[tuple[_File, int, int]]:
        """Where the next rows lie, after some that are passed over: file, first row, and how many."""
        for file in self._files:
            passed = min(skip, file.left)
            count = min(rows, file.left - passed)
            skip, rows = skip - passed, rows - count
            if count:
                yield file, file.used + passed, count

    def _window(self, skip: int, rows: int) -> Window:
        tables = [
            pq.read_table(file.path, partitioning=None).slice(first, count)
            for file, first, count in self._pieces(skip, rows)
        ]
        # Rows that are passed over are used up without being read, in one piece with the window.
        taken = {file.path.name: first + count for file, first, count in self._pieces(0, skip + rows)}
        return _window(tables, self.spec, taken)

    def _use(self, taken: Mapping[str, int]) -> None:
        self.used.update(taken)
        for file in self._files:
            file.used = taken.get(file.path.name, file.used)
        while self._files and not self._files[0].left:
            self._files.popleft()


def _window(tables: Sequence[pa.Table], spec: ModelSpec, taken: Mapping[str, int]) -> Window:
    fitting = [table for table in tables if not _misfit(table, spec)]
    broken = sum(table.num_rows for table in tables) - sum(table.num_rows for table in fitting)
    inputs = {tensor.name: _joined(fitting, f"input.{tensor.name}") for tensor in spec.inputs}
    outputs = {tensor.name: _joined(fitting, f"output.{tensor.name}") for tensor in spec.outputs}
    columns = {name: _plain(fitting, name) for name in ("request_id", "sample", "time")}
    finite = np.ones(len(columns["time"]), dtype=bool)
    for values in (*inputs.values(), *outputs.values()):
        if values.dtype.kind == "f":
            finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return Window(
        request_ids=columns["request_id"][finite],
        samples=columns["sample"][finite],
        times=columns["time"][finite],
        inputs={name: values[finite] for name, values in inputs.items()},
        outputs={name: values[finite] for name, values in outputs.items()},
        broken=broken + int((~finite).sum()),
        taken=taken,
    )


def _misfit(table: pa.Table, spec: ModelSpec) -> str | None:
    return misfit(table, "input", spec.inputs) or misfit(table, "output", spec.outputs)


def _joined(tables: Sequence[pa.Table], column: str) -> np.ndarray:
    return np.concatenate([tensor_of(table, column) for table in tables]) if tables else np.zeros((0, 1))


def _plain(tables: Sequence[pa.Table], column: str) -> np.ndarray:
    parts = [table.column(column).to_numpy(zero_copy_only=False) for table in tables]
    return np.concatenate(parts) if parts else np.zeros(0)
