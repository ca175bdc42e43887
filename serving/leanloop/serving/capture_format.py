r"""Capture: what a served model was asked and what it answered, as whole segment files. One writer, one reader.

The file is copied into each version's folder beside ``model.py`` and runs in Triton's own environment: standard library
and numpy only. A segment appears under its name when it is whole and on the disk::

    segment = b"LLCAP\x01\r\n" record*
    record  = <III  length of header, length of body, CRC-32 of both
              header: JSON in UTF-8
              body:   the tensors' bytes, in the header's order

A header has a ``kind``: ``request`` (id, model, version, wall-clock time in seconds, compute time in milliseconds, and
per tensor name, dtype, shape and bytes) or ``counters`` (of the writing process since it began, once per segment).
Numbers are little endian and exact. An element of a text tensor is its length (``<I``) and its bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

MAGIC = b"LLCAP\x01\r\n"
SUFFIX = ".segment"

INTERNAL = "leanloop."
"""Requests whose id begins so (health, golden queries, load tests) are ours and never captured."""

_HEAD = struct.Struct("<III")
_LENGTH = struct.Struct("<I")

_LOOK_SECONDS = 0.1
"""How often the writing thread looks for records. Were it woken by each one, it would take the interpreter from the
request that is just being answered, and pack every record with cold caches: several times the processor time. A look
a second packs a hundred records in a row, while requests wait: their p99 was 5 % longer, with four looks 1 %."""

_BUFFER_BYTES = 1 << 18
"""Written at once. Each write gives the interpreter away, and it may be 5 ms until it comes back."""


class Record(NamedTuple):
    """One captured request.

    Attributes:
        id: The request's id, as its client chose it.
        model: Name of the model.
        version: Which version answered.
        time: Wall clock when it was answered, in seconds.
        compute_ms: What the model took for the batch that the request was part of.
        inputs: By name, [samples, ...].
        outputs: By name, [samples, ...].
    """

    id: str
    model: str
    version: int
    time: float
    compute_ms: float
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


class Counters(NamedTuple):
    """What a writing process has done since it began.

    Attributes:
        process: Its id.
        captured: Records in finished segments.
        dropped: Records that found the queue full.
        lost: Records that the disk did not take.
        removed: Segments removed to stay within the quota.
    """

    process: int
    captured: int
    dropped: int
    lost: int
    removed: int


class Capture:
    """Writes a share of all requests, in a thread of its own; what it cannot keep up with is dropped and counted.

    Args:
        folder: Where segments go; made when it is not there.
        rate: Share of the requests to keep, by a hash of their ids: the same requests on every replica and version.
        queue_records: Records that may wait to be written.
        segment_bytes: A segment is finished when it has reached this size,
        segment_seconds: or this age.
        quota_bytes: All segments of the folder together; beyond it the oldest are removed.

    Attributes:
        below: Requests whose ids have a smaller CRC-32 than this are part of the sample, but for our own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rate: float,
        queue_records: int = 512,
        segment_bytes: int = 4 << 20,
        segment_seconds: float = 2.0,
        quota_bytes: int = 1 << 30,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.below = int(rate * 2**32)
        # One thread appends, one takes, and each of these is one step of the interpreter: no lock is needed.
        self._queue: deque[Record] = deque()
        self._queue_records = queue_records
        self._segment_bytes, self._segment_seconds, self._quota_bytes = segment_bytes, segment_seconds, quota_bytes
        self._captured = self._dropped = self._lost = self._removed = 0
        self._segments = self._in_segment = 0
        self._idle = self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        return Counters(os.getpid(), self._captured, self._dropped, self._lost, self._removed)

    def wanted(self, request_id: str) -> bool:
        """Whether a request is part of the sample."""
        return crc32(request_id.encode()) < self.below and not request_id.startswith(INTERNAL)

    def offer(self, record: Record) -> None:
        """Take a record, whose arrays must not change any more; returns at once. For one thread."""
        waiting = len(self._queue)
        if waiting >= self._queue_records:
            self._dropped += 1
            return
        self._queue.append(record)
        if self._idle or 2 * waiting >= self._queue_records:
            self._wake.set()

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while (first := self._first()) is not None:
            self._in_segment = 1
            try:
                self._write_segment(first)
            except OSError:
                # A full or broken disk must never reach the requests: the segment is lost, and counted.
                self._lost += self._in_segment

    def _first(self) -> Record | None:
        """The first record of a segment, however long it takes; None when the end has come."""
        self._idle = True
        while not self._queue and not self._closing:
            self._wake.wait()
            # Before the next look: what came until then is seen, and what comes after it wakes again.
            self._wake.clear()
        self._idle = False
        return self._queue.popleft() if self._queue else None

    def _next(self, deadline: float) -> Record | None:
        """The next record of a segment; None when none came in time, or the end has come."""
        while (left := deadline - time.monotonic()) > 0:
            if self._queue:
                return self._queue.popleft()
            if self._closing:
                return None
            self._wake.clear()
            self._wake.wait(min(left, _LOOK_SECONDS))
        return None

    def _write_segment(self, first: Record) -> None:
        """Write from this record on, until the segment is full or old, or the end has come."""
        self._segments += 1
        name = f"{time.time_ns():020d}-{os.getpid()}-{self._segments}"
        temporary = self._folder / f".{name}.part"
        deadline = time.monotonic() + self._segment_seconds
        try:
            with temporary.open("wb", _BUFFER_BYTES) as stream:
                size = stream.write(MAGIC)
                record: Record | None = first
                while record is not None:
                    size += stream.write(pack_record(record))
                    record = self._next(deadline) if size < self._segment_bytes else None
                    self._in_segment += record is not None
                counters = self.counters._replace(captured=self._captured + self._in_segment)
                stream.write(_pack(json.dumps({"kind": "counters", **counters._asdict()}), b""))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(self._folder / f"{name}{SUFFIX}")
        finally:
            temporary.unlink(missing_ok=True)
        self._captured += self._in_segment
        self._keep_quota()

    def _keep_quota(self) -> None:
        sizes = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):  # another instance removed it
                        sizes[entry.name] = entry.stat().st_size
        excess = sum(sizes.values()) - self._quota_bytes
        for name in sorted(sizes):
            if excess <= 0:
                return
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
                self._removed += 1
            excess -= sizes[name]


def pack_record(record: Record) -> bytes:
    """One record as it stands in a segment."""
    asked, inputs = _pack_tensors(record.inputs)
    answered, outputs = _pack_tensors(record.outputs)
    start = json.dumps(
        {
            "kind": "request",
            "id": record.id,
            "model": record.model,
            "version": record.version,
            "time": record.time,
            "compute_ms": record.compute_ms,
        }
    )
    return _pack(f'{start[:-1]}, "inputs": [{asked}], "outputs": [{answered}]}}', inputs + outputs)


def read_segment(path: Path) -> Iterator[Record | Counters]:
    """What a segment holds, in order.

    Raises:
        ValueError: It is no segment, or a record is damaged; those before it were given.
    """
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise ValueError(f"not a capture segment of version 1: {path}")
    offset = len(MAGIC)
    while offset < len(data):
        if offset + _HEAD.size > len(data):
            raise ValueError(f"a record is cut off at byte {offset} of {path}")
        header_length, body_length, checksum = _HEAD.unpack_from(data, offset)
        start = offset + _HEAD.size
        end = start + header_length + body_length
        if end > len(data) or crc32(data[start:end]) != checksum:
            raise ValueError(f"a record is damaged at byte {offset} of {path}")
        header = json.loads(data[start : start + header_length])
        yield _unpack(header, data[start + header_length : end])
        offset = end


def _pack(header: str, body: bytes) -> bytes:
    text = header.encode()
    return _HEAD.pack(len(text), len(body), crc32(body, crc32(text))) + text + body


def _pack_tensors(arrays: Mapping[str, np.ndarray]) -> tuple[str, bytes]:
    """Their descriptions for the header, and their bytes."""
    raws = [_pack_array(array) for array in arrays.values()]
    described = [
        _describe(name, array.dtype, array.shape, len(raw))
        for (name, array), raw in zip(arrays.items(), raws, strict=True)
    ]
    return ", ".join(described), b"".join(raws)


@lru_cache(maxsize=256)
def _describe(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], length: int) -> str:
    """A tensor in a header. Almost all requests of a model are described alike, and JSON costs more than the bytes."""
    kind = "text" if dtype.kind in "OSU" else dtype.newbyteorder("<").str
    return json.dumps({"name": name, "dtype": kind, "shape": shape, "bytes": length})


def _unpack(header: dict[str, Any], body: bytes) -> Record | Counters:
    if header.pop("kind") == "counters":
        return Counters(**header)
    offset = 0
    for side in ("inputs", "outputs"):
        arrays = {}
        for tensor in header[side]:
            raw = body[offset : offset + tensor["bytes"]]
            arrays[tensor["name"]] = _unpack_array(raw, tensor["dtype"], tensor["shape"])
            offset += tensor["bytes"]
        header[side] = arrays
    return Record(**header)


def _pack_array(array: np.ndarray) -> bytes:
    if array.dtype.kind not in "OSU":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    elements = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1)]
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def _unpack_array(raw: bytes, dtype: str, shape: list[int]) -> np.ndarray:
    if dtype != "text":
        return np.frombuffer(raw, dtype).reshape(shape)
    elements, offset = np.empty(int(np.prod(shape)), dtype=object), 0
    for index in range(len(elements)):
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        elements[index] = raw[offset : offset + length]
        offset += length
    return elements.reshape(shape)
