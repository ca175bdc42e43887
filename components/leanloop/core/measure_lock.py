"""The host-wide lock that keeps training out of the way of a measurement.

A measurement holds it exclusively; training holds it shared, one batch at a time, and so pauses while somebody
measures. `flock` alone would starve the measurer when two trainers overlap, so a measurer first closes a gate that
every trainer passes through before its next batch.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _open(name: str) -> int:
    path = Path(tempfile.gettempdir()) / f"leanloop-{name}.lock"
    try:
        # Without O_CREAT first: in a sticky folder the kernel refuses O_CREAT on another user's file.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.fchmod(descriptor, 0o644)
        return descriptor


@contextmanager
def _held(descriptor: int, mode: int) -> Iterator[None]:
    fcntl.flock(descriptor, mode)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def measuring() -> Iterator[None]:
    """Hold the machine for a measurement: waits for the batches under way, and no other starts."""
    gate, room = _open("gate"), _open("room")
    try:
        with _held(gate, fcntl.LOCK_EX), _held(room, fcntl.LOCK_EX):
            yield
    finally:
        os.close(room)
        os.close(gate)


class TrainingTurn:
    """Shared side of the lock, entered for each batch: ``with turn: step()``. Files stay open between batches."""

    def __init__(self) -> None:
        self._gate = _open("gate")
        self._room = _open("room")

    def __enter__(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock's files."""
        os.close(self._gate)
        os.close(self._room)
