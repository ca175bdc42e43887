"""``events.jsonl``: what a run does, as it does it.

Steps append; progress bars, console and reports read only this file. One JSON object per line, each written by a
single ``write`` in append mode, so that parallel workers never mix their lines.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from leanloop.core.errors import LeanloopError

EVENTS_VARIABLE = "LEANLOOP_EVENTS"
"""Environment variable with the events file of the run that a process belongs to."""

_step: ContextVar[str] = ContextVar("step", default="")
_worker: ContextVar[int | None] = ContextVar("worker", default=None)
_listeners: ContextVar[tuple[tuple[str, list[dict[str, Any]]], ...]] = ContextVar("listeners", default=())


def emit(kind: str, **fields: Any) -> None:
    """Append one event to the run's file; without a run (`LEANLOOP_EVENTS` unset) nothing is written.

    Who is `listening` hears it in any case.

    Args:
        kind: What happened, such as ``progress`` or ``trial_finished``.
        fields: JSON values.
    """
    for wanted, heard in _listeners.get():
        if wanted == kind:
            heard.append(fields)
    target = os.environ.get(EVENTS_VARIABLE)
    if not target:
        return
    event = {"time": round(time.time(), 3), "kind": kind, "step": _step.get(), **fields}
    if _worker.get() is not None:
        event.setdefault("worker", _worker.get())
    line = json.dumps(event, default=str) + "\n"
    descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@contextmanager
def listening(kind: str) -> Iterator[list[dict[str, Any]]]:
    """The fields of all events of one kind that this process emits while the block runs."""
    heard: list[dict[str, Any]] = []
    token = _listeners.set((*_listeners.get(), (kind, heard)))
    try:
        yield heard
    finally:
        _listeners.reset(token)


@contextmanager
def step_events(step: str, worker: int | None = None, **fields: Any) -> Iterator[None]:
    """Emit ``step_started`` and ``step_finished`` (or ``step_failed``) around a step; `emit` inside names the step."""
    step_token, worker_token = _step.set(step), _worker.set(worker)
    started = time.monotonic()
    emit("step_started", **fields)
    try:
        yield
    except BaseException as error:
        emit("step_failed", seconds=round(time.monotonic() - started, 3), error=_parts(error))
        raise
    else:
        emit("step_finished", seconds=round(time.monotonic() - started, 3))
    finally:
        _step.reset(step_token)
        _worker.reset(worker_token)


def _parts(error: BaseException) -> dict[str, Any]:
    if isinstance(error, LeanloopError):
        value = None if error.value is None else str(error.value)
        told = {"what": error.what, "where": error.where, "value": value, "fix": error.fix}
    else:
        told = {"what": f"{type(error).__name__}: {error}", "where": "", "value": None, "fix": ""}
    return {"kind": type(error).__name__, **told}


def progress(done: float, total: float, what: str) -> None:
    """Tell how far the current step is: ``done`` of ``total`` units, and what it is doing."""
    emit("progress", done=done, total=total, what=what)


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Whole events after ``offset`` bytes, and the offset to go on from; a half-written last line is left for later."""
    if not path.exists():
        return [], offset
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    whole = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:whole].splitlines()], offset + whole
