"""One runner for limited child processes: loading, conversion and trials go through it.

The child is a fresh interpreter that imports a function by name and calls it with JSON arguments. Its time and memory
are limited, its output is kept, and a script that repeats the very call is written before it starts.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from leanloop.core.errors import ChildError, LeanloopError
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
    niceness: int = 0,
) -> Any:
    """Call ``module:function`` with keyword arguments in a child process, under limits.

    Args:
        function: What to call, as ``module:function``. It must return a JSON value.
        arguments: JSON keyword arguments.
        folder: Where ``reproduce.sh``, ``call.json`` and ``output.log`` are written.
        timeout_seconds: Wall-clock limit.
        memory_bytes: Limit on the resident memory of the child and its descendants, watched every 0.2 s.
        niceness: Added to the child's scheduling niceness.

    Returns:
        What the function returned.

    Raises:
        LeanloopError: The one that the function raised, as it was.
        ChildError: Another exception, a crash, or a limit; with the end of its output and the script to repeat it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    call, log, script = folder / "call.json", folder / "output.log", folder / "reproduce.sh"
    write_text(call, json.dumps({"function": function, "arguments": arguments}, indent=2))
    command = [sys.executable, "-m", "leanloop.core.child", str(call)]
    write_text(script, f"#!/bin/sh\n# Repeats this call, with the same arguments.\nexec {shlex.join(command)}\n")
    script.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="leanloop-child-") as scratch:
        answer = Path(scratch) / "answer.pickle"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, str(answer)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: _prepare(niceness),
            )
            exceeded = _watch(process, timeout_seconds, memory_bytes)
        if exceeded is None and answer.exists():
            # Written by our own child into a private folder: an exception keeps its type only through pickle.
            succeeded, value = pickle.loads(answer.read_bytes())
            if succeeded:
                return value
            if isinstance(value, LeanloopError):
                raise value
            raise ChildError("A child process failed.", where=str(log), value=value, fix=f"Repeat it with {script}.")
    raise ChildError(
        exceeded or f"A child process died with exit status {process.returncode}.",
        where=function,
        value=_tail(log),
        fix=f"Repeat it with {script}, or raise its limit in the settings.",
    )


def _prepare(niceness: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if niceness:
        os.nice(niceness)


def _watch(process: subprocess.Popen[bytes], timeout_seconds: float, memory_bytes: int) -> str | None:
    # RLIMIT_AS would count the tens of GiB that math libraries reserve without using, so the resident size is watched.
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            process.wait(_WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        except BaseException:
            _kill_group(process)
            raise
        else:
            _kill_group(process)
            return None
        if time.monotonic() > deadline:
            _kill_group(process)
            return f"A child process ran longer than {timeout_seconds:g} s and was ended."
        used = resident_bytes(process.pid)
        if used > memory_bytes:
            _kill_group(process)
            return f"A child process used {used >> 20} MiB, more than its {memory_bytes >> 20} MiB, and was ended."


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


def _main(call: str, answer: str | None) -> None:
    request = json.loads(Path(call).read_text(encoding="utf-8"))
    module, _, name = request["function"].partition(":")
    if answer is None:
        print(json.dumps(getattr(importlib.import_module(module), name)(**request["arguments"]), indent=2))
        return
    _die_with_parent()
    outcome: tuple[bool, Any]
    try:
        outcome = (True, getattr(importlib.import_module(module), name)(**request["arguments"]))
    except LeanloopError as error:
        outcome = (False, error)
    except Exception as error:  # noqa: BLE001 - the process boundary: everything goes to the parent
        import traceback

        traceback.print_exc()
        outcome = (False, f"{type(error).__name__}: {error}")
    temporary = Path(f"{answer}.part")
    temporary.write_bytes(pickle.dumps(outcome))
    temporary.rename(answer)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
