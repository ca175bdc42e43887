"""From segments to rows: captured requests as Parquet, one row per sample, partitioned by model, version and date.

    <root>/model=<name>/version=<n>/date=<yyyy-mm-dd>/<segment>.parquet

Columns: ``request_id``, ``sample`` (its index in the request), ``time`` (seconds), ``compute_ms``, and per tensor
``input.<name>`` or ``output.<name>``: a list of the sample's numbers in C order, with the shape of one sample in the
column's metadata. A file appears when it is whole; its segment is removed after that, and a segment that is read
again after a crash gives the same files.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leanloop.core.errors import SettingsError
from leanloop.core.files import atomic_file
from leanloop.core.names import check_name
from leanloop.core.settings import InputSpec
from leanloop.monitoring.compute import ComputeTimes
from leanloop.serving.capture_format import SUFFIX, Counters, Record, read_segment
from leanloop.serving.model_config import TensorSpec

Partition = tuple[str, int, str]
"""Model, version, date."""


@dataclass
class Collected:
    """What a collector has done since it began.

    Attributes:
        segments: Segments turned into rows.
        rows: Rows written.
        damaged: Segments that were cut off or damaged, name no model, or contradict themselves: what was whole is kept,
            and they are moved to ``damaged/``.
        newest: Time of the newest record, in seconds; 0 before the first.
        writers: Counters of each writing process, by its id.
        compute: Compute times, by model and version.
    """

    segments: int = 0
    rows: int = 0
    damaged: int = 0
    newest: float = 0.0
    writers: dict[int, Counters] = field(default_factory=dict)
    compute: dict[tuple[str, int], ComputeTimes] = field(default_factory=lambda: defaultdict(ComputeTimes))

    @property
    def dropped(self) -> int:
        """Records that were sampled and are not in any segment, over all writers."""
        return sum(writer.dropped + writer.lost for writer in self.writers.values())

    def lag_seconds(self, now: float | None = None) -> float | None:
        """Age of the newest record; None before the first."""
        return None if not self.newest else max(0.0, (time.time() if now is None else now) - self.newest)


class Collector:
    """Turns finished segments into rows.

    Args:
        segments: Folder that the served models capture into.
        root: Where the rows go.
    """

    def __init__(self, segments: Path, root: Path) -> None:
        self._segments, self._root = segments, root
        self.done = Collected()

    def collect(self) -> int:
        """Take all segments that are finished by now, oldest first; returns how many rows they gave."""
        before = self.done.rows
        for path in sorted(self._segments.glob(f"*{SUFFIX}")):
            self._take(path)
        return self.done.rows - before

    def _take(self, path: Path) -> None:
        records: dict[Partition, list[Record]] = defaultdict(list)
        whole = True
        try:
            for item in read_segment(path):
                if isinstance(item, Counters):
                    self.done.writers[item.process] = item
                else:
                    _samples(item)
                    records[_partition(item)].append(item)
        except FileNotFoundError:
            return  # its writer removed it to stay within the quota
        except (ValueError, SettingsError):
            whole = False
        for partition, members in records.items():
            self._write(path.stem, partition, members)
            times = self.done.compute[partition[:2]]
            for record in members:
                times.add(record.compute_ms)
        if whole:
            path.unlink(missing_ok=True)
        else:
            # Kept for a person to look at, out of the way.
            damaged = self._segments / "damaged"
            damaged.mkdir(exist_ok=True)
            path.rename(damaged / path.name)
        self.done.segments += whole
        self.done.damaged += not whole

    def _write(self, segment: str, partition: Partition, records: Sequence[Record]) -> None:
        model, version, date = partition
        folder = self._root / f"model={model}" / f"version={version}" / f"date={date}"
        # Requests whose tensors have different shapes cannot share a file.
        groups: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            groups[_signature(record)].append(record)
        for number, group in enumerate(groups.values()):
            table = rows_of(group)
            with atomic_file(folder / f"{segment}{f'-{number}' if number else ''}.parquet") as temporary:
                pq.write_table(table, temporary, compression="zstd")
            self.done.rows += table.num_rows
        self.done.newest = max(self.done.newest, *(record.time for record in records))


def rows_of(records: Sequence[Record]) -> pa.Table:
    """One row per sample of records whose tensors have one shape and type.

    Args:
        records: At least one.
    """
    counts = [_samples(record) for record in records]
    columns: dict[str, pa.Array] = {
        "request_id": pa.array(np.repeat(np.array([record.id for record in records], dtype=object), counts)),
        "sample": pa.array(np.concatenate([np.arange(count) for count in counts]), pa.int32()),
        "time": pa.array(np.repeat([record.time for record in records], counts), pa.float64()),
        "compute_ms": pa.array(np.repeat([record.compute_ms for record in records], counts), pa.float32()),
    }
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    for side in ("inputs", "outputs"):
        for name in getattr(records[0], side):
            values = np.concatenate([getattr(record, side)[name] for record in records])
            column = _column(values)
            columns[f"{side[:-1]}.{name}"] = column
            shape = json.dumps(list(values.shape[1:])).encode()
            fields.append(pa.field(f"{side[:-1]}.{name}", column.type, metadata={b"shape": shape}))
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def files_of(root: Path, model: str = "*", version: int | str = "*") -> list[Path]:
    """The files of rows, oldest first; of all models and versions without these."""
    return sorted(root.glob(f"model={model}/version={version}/date=*/*.parquet"), key=lambda path: (path.name, path))


def tensor_of(table: pa.Table, column: str) -> np.ndarray:
    """A tensor column as an array, [rows, ...]."""
    shape = json.loads(table.schema.field(column).metadata[b"shape"])
    values = table.column(column).combine_chunks().flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(table.num_rows, *shape)


def misfit(table: pa.Table, side: Literal["input", "output"], tensors: Sequence[TensorSpec | InputSpec]) -> str | None:
    """Why the columns of a model's tensors are not what it takes or gives; None when they are.

    Args:
        table: As `rows_of` makes it.
        side: Of the model.
        tensors: Name, shape of one sample (-1 is an axis of any length) and type of each.
    """
    for tensor in tensors:
        name = f"{side}.{tensor.name}"
        if name not in table.column_names:
            return f"an {side} is missing"
        column = table.schema.field(name)
        shape = json.loads(column.metadata[b"shape"])
        fits = len(shape) == len(tensor.shape) and all(
            wanted in (found, -1) for found, wanted in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            return f"another shape than the model's {side}"
        if np.dtype(column.type.value_type.to_pandas_dtype()) != np.dtype(tensor.dtype):
            return f"another type than the model's {side}"
    return None


def _column(values: np.ndarray) -> pa.FixedSizeListArray:
    size = int(np.prod(values.shape[1:]))
    flat = pa.array(list(values.reshape(-1)), pa.binary()) if values.dtype == object else pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, size)


def _samples(record: Record) -> int:
    lengths = {len(values) for values in (*record.inputs.values(), *record.outputs.values())}
    if len(lengths) != 1:
        raise ValueError(f"the tensors of request {record.id!r} have {sorted(lengths)} samples")
    return lengths.pop()


def _partition(record: Record) -> Partition:
    return check_name(record.model), record.version, datetime.fromtimestamp(record.time, UTC).date().isoformat()


def _signature(record: Record) -> str:
    return repr(
        [
            (side, name, values.dtype.str, values.shape[1:])
            for side in ("inputs", "outputs")
            for name, values in getattr(record, side).items()
        ]
    )
