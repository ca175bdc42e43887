from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from leanloop.core.child import Child, run_limited
from leanloop.core.errors import ChildError, DataError, MemoryLimitError, TimeLimitError

HERE = "tests.core.child_functions"


def call(name: str, folder: Path, seconds: float = 30, memory: int = 1 << 30, **arguments: Any) -> Any:
    return run_limited(f"{HERE}:{name}", arguments, folder=folder, timeout_seconds=seconds, memory_bytes=memory)


def test_value_comes_back_and_the_call_can_be_repeated(tmp_path: Path) -> None:
    assert call("add", tmp_path, a=1, b=2) == 3
    repeated = subprocess.run([tmp_path / "reproduce.sh"], capture_output=True, text=True, check=True)
    assert repeated.stdout.strip() == "3"


def test_our_errors_keep_their_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such split") as caught:
        call("fail_clearly", tmp_path)
    assert caught.value.fix == "bring one"


def test_other_errors_are_told_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="KeyError: 'x'"):
        call("fail_otherwise", tmp_path)
    assert "Traceback" in (tmp_path / "output.log").read_text()


def test_a_crash_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"exit status -9[\s\S]*last words"):
        call("crash", tmp_path)


def test_time_limit_ends_descendants_too(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(TimeLimitError, match="longer than 3 s"):
        call("hang_with_grandchild", tmp_path, seconds=3, pid_file=str(pid_file))
    assert gone(int(pid_file.read_text()))


def test_memory_limit(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match="more than its 200 MiB"):
        call("eat", tmp_path, memory=200 << 20)


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "from pathlib import Path; from leanloop.core.child import run_limited; "
        f"run_limited('{HERE}:hang_with_grandchild', {{'pid_file': {str(pid_file)!r}}}, "
        f"folder=Path({str(tmp_path / 'child')!r}), timeout_seconds=60, memory_bytes=1 << 30)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 20
        while not pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        grandchild = int(pid_file.read_text())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone(grandchild)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def test_a_child_serves_several_calls_in_one_process(tmp_path: Path) -> None:
    with Child() as child:
        first = serve(child, "pid", tmp_path / "1")
        assert serve(child, "pid", tmp_path / "2") == first
        with pytest.raises(ChildError, match="KeyError"):
            serve(child, "fail_otherwise", tmp_path / "3")
        assert serve(child, "pid", tmp_path / "4") == first
    assert "Traceback" in (tmp_path / "3/output.log").read_text()
    assert (tmp_path / "4/output.log").read_text() == ""
    assert gone(first)


def test_a_child_that_died_is_replaced(tmp_path: Path) -> None:
    with Child() as child:
        first = serve(child, "pid", tmp_path / "1")
        with pytest.raises(ChildError, match="exit status -9"):
            serve(child, "crash", tmp_path / "2")
        second = serve(child, "pid", tmp_path / "3")
        os.kill(second, signal.SIGKILL)
        with pytest.raises(ChildError, match="exit status -9"):
            serve(child, "pid", tmp_path / "4")
        third = serve(child, "pid", tmp_path / "5")
        assert len({first, second, third}) == 3


def test_a_child_that_has_grown_is_replaced(tmp_path: Path) -> None:
    with Child() as child:
        first = serve(child, "keep", tmp_path / "1", memory=400 << 20)
        assert serve(child, "pid", tmp_path / "2") != first


def serve(child: Child, name: str, folder: Path, memory: int = 1 << 30) -> Any:
    return child.call(f"{HERE}:{name}", {}, folder=folder, timeout_seconds=30, memory_bytes=memory)


def test_a_child_imports_beforehand_and_survives_what_is_not_there(tmp_path: Path) -> None:
    with Child(preload=("colorsys", "tests.no_such_module")) as child:
        imported = child.call(
            f"{HERE}:is_imported", {"module": "colorsys"}, folder=tmp_path, timeout_seconds=30, memory_bytes=1 << 30
        )
    assert imported


def test_no_fork_handler_runs_when_a_child_starts(tmp_path: Path) -> None:
    """The fork handlers of gRPC end a child before it execs, now and then: a child must start by vfork."""
    forks: list[int] = []
    os.register_at_fork(before=lambda: forks.append(1))
    assert call("add", tmp_path, a=1, b=2) == 3
    assert not forks
    subprocess.run(["true"], check=True, preexec_fn=lambda: None)  # what the handler above would have seen
    assert forks == [1]


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    assert call("core_limit", tmp_path) == [0, 0]
