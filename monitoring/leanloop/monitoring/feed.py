"""Windows of captured rows: disjoint pieces of equal size in order of arrival, each judged once, through every restart.

Which rows went into judged windows is kept in the database, written in the same transaction as the verdict
(`leanloop.monitoring.watch`): a row is neither judged twice nor lost when the service dies.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leanloop.monitoring.collect import tensor_of
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
        skipped: Windows that were passed over, since more came than was asked for.
    """

    root: Path
    spec: ModelSpec
    version: int
    size: int
    max_age_seconds: float
    used: dict[str, int]
    skipped: int = 0
    _files: deque[_File] = field(default_factory=deque)
    _seen: set[str] = field(default_factory=set)

    @property
    def waiting(self) -> int:
        """Rows that wait for their window to fill."""
        return sum(file.left for file in self._files)

    def windows(self, now: float, *, most: int) -> Iterator[Window]:
        """The windows that are due at a Unix time; of more than ``most`` only the newest, the others are skipped."""
        self._look()
        excess = self.waiting // self.size - most
        if excess > 0:
            # The rows are used up without being read, in one piece with the next window.
            passed = self._advance(excess * self.size)
            self.skipped += excess
        else:
            passed = {}
        while self.waiting >= self.size:
            yield self._window(self.size, passed)
            passed = {}
        if self._files and now - self._first_time() > self.max_age_seconds:
            yield self._window(self.waiting, passed)

    def tail(self, rows: int) -> Window:
        """The newest so many rows that went into windows before, as one window that uses up nothing."""
        tables: list[pa.Table] = []
        for path in reversed(self._paths()):
            missing = rows - sum(table.num_rows for table in tables)
            if missing <= 0:
                break
            used = self.used.get(path.name, 0)
            if used:
                first = max(0, used - missing)
                tables.insert(0, pq.read_table(path).slice(first, used - first))
        return _window(tables, self.spec, {})

    def _paths(self) -> list[Path]:
        folder = self.root / f"model={self.spec.name}" / f"version={self.version}"
        return sorted(folder.glob("date=*/*.parquet"), key=lambda path: path.name)

    def _look(self) -> None:
        while self._files and not self._files[0].path.exists():
            self._files.popleft()  # the quota took it; the oldest go first
        for path in self._paths():
            if path.name in self._seen:
                continue
            rows, used = pq.read_metadata(path).num_rows, self.used.get(path.name, 0)
            self._seen.add(path.name)
            if used < rows:
                self._files.append(_File(path, rows, used))

    def _first_time(self) -> float:
        first = self._files[0]
        return float(pq.read_table(first.path, columns=["time"]).column("time")[first.used].as_py())

    def _advance(self, rows: int) -> dict[str, int]:
        taken: dict[str, int] = {}
        while rows:
            file = self._files[0]
            step = min(rows, file.left)
            file.used += step
            self.used[file.path.name] = file.used
            rows -= step
            taken[file.path.name] = file.used
            if not file.left:
                self._files.popleft()
        return taken

    def _window(self, rows: int, passed: Mapping[str, int]) -> Window:
        tables: list[pa.Table] = []
        for file in self._files:
            step = min(rows - sum(table.num_rows for table in tables), file.left)
            if not step:
                break
            tables.append(pq.read_table(file.path).slice(file.used, step))
        return _window(tables, self.spec, {**passed, **self._advance(rows)})


def _window(tables: Sequence[pa.Table], spec: ModelSpec, taken: Mapping[str, int]) -> Window:
    fitting = [table for table in tables if _fits(table, spec)]
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


def _fits(table: pa.Table, spec: ModelSpec) -> bool:
    for side, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            name = f"{side}.{tensor.name}"
            if name not in table.column_names:
                return False
            shape = json.loads(table.schema.field(name).metadata[b"shape"])
            if len(shape) != len(tensor.shape):
                return False
            if any(wanted not in (found, -1) for found, wanted in zip(shape, tensor.shape, strict=True)):
                return False
    return True


def _joined(tables: Sequence[pa.Table], column: str) -> np.ndarray:
    return np.concatenate([tensor_of(table, column) for table in tables]) if tables else np.zeros((0, 1))


def _plain(tables: Sequence[pa.Table], column: str) -> np.ndarray:
    parts = [table.column(column).to_numpy(zero_copy_only=False) for table in tables]
    return np.concatenate(parts) if parts else np.zeros(0)
