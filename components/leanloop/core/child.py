"""One runner for limited child processes: loading, conversion and trials go through it.

A child is a fresh interpreter that imports functions by name and calls them with JSON arguments, one after another, so
that what they import is paid for once. Each call's time and memory are limited, its output is kept, and a script that
repeats it is written before it starts.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import resource
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from leanloop.core.errors import ChildError, LeanloopError, MemoryLimitError, TimeLimitError
from leanloop.core.files import write_text

_TAIL_CHARACTERS = 2000
_WATCH_SECONDS = 0.2


def run_limited(
    function: str,
    arguments: dict[str, Any],
    *,
    folder: Path,
    timeout_seconds: float,
    memory_bytes: int,
) -> Any:
    """Call ``module:function`` in a child process of its own; see `Child.call`."""
    with Child() as child:
        return child.call(
            function, arguments, folder=folder, timeout_seconds=timeout_seconds, memory_bytes=memory_bytes
        )


class Child:
    """A child process that serves calls one after another; it starts with the first, and anew after one that failed it.

    Use it as a context manager: at the end the process and all its descendants are ended.

    Args:
        preload: Modules to import beforehand. With any, the process starts at once, and imports them while its parent
            does something else.
    """

    def __init__(self, *, preload: Sequence[str] = ()) -> None:
        self._preload = tuple(preload)
        self._process = _start(self._preload) if preload else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process and its descendants."""
        process, self._process = self._process, None
        if process is not None:
            _kill_group(process)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):  # closing flushes a request that nobody reads any more
                    pipe.close()

    def call(
        self, function: str, arguments: dict[str, Any], *, folder: Path, timeout_seconds: float, memory_bytes: int
    ) -> Any:
        """Call ``module:function`` with keyword arguments, under limits.

        Args:
            function: What to call, as ``module:function``. It must return a JSON value.
            arguments: JSON keyword arguments.
            folder: Where ``reproduce.sh``, ``call.json`` and ``output.log`` are written.
            timeout_seconds: Wall-clock limit.
            memory_bytes: Limit on the resident memory of the child and its descendants, watched every 0.2 s. A child
                that ends a call with more than half of it does not serve another.

        Returns:
            What the function returned.

        Raises:
            LeanloopError: The one that the function raised, as it was.
            TimeLimitError, MemoryLimitError: It exceeded a limit, and was ended.
            ChildError: Another exception, or a crash; with the end of its output and the script to repeat it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        call, log, script = folder / "call.json", folder / "output.log", folder / "reproduce.sh"
        write_text(call, json.dumps({"function": function, "arguments": arguments}, indent=2))
        command = [sys.executable, "-m", "leanloop.core.child", str(call)]
        write_text(script, f"#!/bin/sh\n# Repeats this call, with the same arguments.\nexec {shlex.join(command)}\n")
        script.chmod(0o755)
        log.write_bytes(b"")
        with tempfile.TemporaryDirectory(prefix="leanloop-child-") as scratch:
            answer = Path(scratch) / "answer.pickle"
            process = self._process = self._process or _start(self._preload)
            try:
                exceeded = _serve_one(process, (call, log, answer), timeout_seconds, memory_bytes)
            except BaseException:
                self.close()
                raise
            if answer.exists() and exceeded is None:
                if resident_bytes(process.pid) > memory_bytes // 2:
                    self.close()
                return _value(answer, log, script)
            self.close()
        kind, what = exceeded or (ChildError, f"A child process died with exit status {process.returncode}.")
        raise kind(
            what,
            where=function,
            value=_tail(log),
            fix=f"Repeat it with {script}, or raise its limit in the settings.",
        )


def _start(preload: Sequence[str]) -> subprocess.Popen[bytes]:
    # No preexec_fn: it would fork us where vfork does, and gRPC's fork handlers then kill some children before exec
    # (grpc/grpc issue 43055; 15 of 300 measured beside one open channel).
    return subprocess.Popen(
        [sys.executable, "-m", "leanloop.core.child", "--serve", *preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _serve_one(
    process: subprocess.Popen[bytes], request: tuple[Path, ...], timeout_seconds: float, memory_bytes: int
) -> tuple[type[ChildError], str] | None:
    """Send a request and wait for its end; says which limit it exceeded."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_seconds
    with contextlib.suppress(BrokenPipeError):  # it died in its sleep: seen below, as the end of its answers
        process.stdin.write(json.dumps([str(path) for path in request]).encode() + b"\n")
        process.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        # RLIMIT_AS would count the tens of GiB that math libraries reserve without using: the resident size is watched.
        while not selector.select(_WATCH_SECONDS) and process.poll() is None:
            if time.monotonic() > deadline:
                return TimeLimitError, f"A child process ran longer than {timeout_seconds:g} s and was ended."
            used = resident_bytes(process.pid)
            if used > memory_bytes:
                most = memory_bytes >> 20
                return (
                    MemoryLimitError,
                    f"A child process used {used >> 20} MiB, more than its {most} MiB, and was ended.",
                )
    process.stdout.readline()
    return None


def _value(answer: Path, log: Path, script: Path) -> Any:
    # Written by our own child into a private folder: an exception keeps its type only through pickle.
    succeeded, value = pickle.loads(answer.read_bytes())
    if succeeded:
        return value
    if isinstance(value, LeanloopError):
        raise value
    raise ChildError("A child process failed.", where=str(log), value=value, fix=f"Repeat it with {script}.")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants, in bytes; 0 when it is gone."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # The child leads its own session: its descendants end with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    return text[-_TAIL_CHARACTERS:].strip() or "it printed nothing"


def _die_with_parent() -> None:
    # A killed parent must not leave a trial running: the child ends itself when it is adopted by another process.
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _call(path: Path) -> Any:
    request = json.loads(path.read_text(encoding="utf-8"))
    module, _, name = request["function"].partition(":")
    return getattr(importlib.import_module(module), name)(**request["arguments"])


def _answer(call: Path, answer: Path) -> None:
    outcome: tuple[bool, Any]
    try:
        outcome = (True, _call(call))
    except LeanloopError as error:
        outcome = (False, error)
    except Exception as error:  # noqa: BLE001 - the process boundary: everything goes to the parent
        import traceback

        traceback.print_exc()
        outcome = (False, f"{type(error).__name__}: {error}")
    temporary = answer.with_suffix(".part")
    temporary.write_bytes(pickle.dumps(outcome))
    temporary.rename(answer)


def _serve(preload: Sequence[str]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is told by its log; GiB of core dump help nobody
    _die_with_parent()
    # The parent's pipes are kept for us alone: what the functions read and print goes elsewhere.
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "wb", buffering=0)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
    for module in preload:
        with contextlib.suppress(ImportError):  # the call that needs it says so, in its log
            importlib.import_module(module)
    for line in requests:
        call, log, answer = map(Path, json.loads(line))
        with log.open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        _answer(call, answer)
        sys.stdout.flush()
        sys.stderr.flush()
        replies.write(b"\n")


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(sys.argv[2:])
    else:
        print(json.dumps(_call(Path(sys.argv[1])), indent=2))
