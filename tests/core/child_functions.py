"""Functions that tests call in child processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from leanloop.core.errors import DataError


def add(a: int, b: int) -> int:
    return a + b


def fail_clearly() -> None:
    raise DataError("There is no such split.", fix="bring one")


def fail_otherwise() -> None:
    raise KeyError("x")


def crash() -> None:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def hang_with_grandchild(pid_file: str) -> None:
    grandchild = subprocess.Popen(["sleep", "60"])
    part = Path(f"{pid_file}.part")
    part.write_text(str(grandchild.pid))
    part.rename(pid_file)
    time.sleep(60)


def eat() -> None:
    hoard = bytearray(400 << 20)
    for index in range(0, len(hoard), 4096):
        hoard[index] = 1
    time.sleep(60)


KEPT: list[bytearray] = []


def pid() -> int:
    return os.getpid()


def keep() -> int:
    KEPT.append(bytearray(b"x") * (250 << 20))
    return os.getpid()


def is_imported(module: str) -> bool:
    return module in sys.modules


def core_limit() -> list[int]:
    return list(resource.getrlimit(resource.RLIMIT_CORE))
