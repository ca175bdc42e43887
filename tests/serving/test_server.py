from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from leanloop.core.errors import ServingError
from leanloop.serving import Ports, ProcessId, TritonHome, TritonServer


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def test_nothing_is_left_behind(home, repository, tmp_path):
    with TritonServer(home, repository, Ports.free(), tmp_path) as server:
        process = psutil.Process(server.id.pid)
        assert process.is_running()
        listening = {connection.laddr.ip for connection in process.net_connections(kind="tcp")}
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert not process.is_running()


def test_a_port_in_use_is_told_before_anything_starts(home, repository, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = Ports.free()
        server = TritonServer(home, repository, Ports(free.http, port, free.metrics), tmp_path)
        with pytest.raises(ServingError, match=f"Port {port} is in use") as caught:
            server.launch()
    assert caught.value.where == "serving.grpc_url"
    assert not server.log.exists()


def test_a_server_that_ends_shows_its_log(home, tmp_path):
    with (
        pytest.raises(ServingError, match="did not come up") as caught,
        TritonServer(home, tmp_path / "nowhere", Ports.free(), tmp_path),
    ):
        pass
    assert "ended with status 1" in str(caught.value)
    assert "failed to stat file" in str(caught.value)


def test_a_server_that_takes_too_long_is_ended(home, repository, tmp_path):
    server = TritonServer(home, repository, Ports.free(), tmp_path, start_timeout=0.0)
    with pytest.raises(ServingError, match="no answer within 0 s"):
        server.__enter__()
    assert server.id.find() is None


def test_a_server_ends_with_the_process_that_started_it(repository, tmp_path):
    script = dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from leanloop.serving import Ports, TritonHome, TritonServer

        repository, folder = map(Path, sys.argv[1:])
        with TritonServer(TritonHome.find(), repository, Ports.free(), folder) as server:
            print(server.id.pid, server.id.create_time, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    child = subprocess.run(
        [sys.executable, "-c", script, repository, tmp_path], capture_output=True, text=True, check=False
    )
    pid, create_time = child.stdout.split()
    process = ProcessId(int(pid), float(create_time)).find()
    if process is not None:
        process.wait(timeout=20)


def test_only_the_very_process_is_found():
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        ours = ProcessId.of(sleeper.pid)
        earlier = ProcessId(sleeper.pid, ours.create_time - 100)
        assert earlier.find() is None
        assert not earlier.stop()
        assert sleeper.poll() is None
        assert ours.stop()
        assert not ours.stop()


def test_what_starts_while_its_family_ends_is_ended_too(tmp_path):
    seconds = f"{60 + os.getpid() / 1e7:.7f}"  # names ours among all that sleep
    restless = "while :; do setsid sleep $0 & sleep 0.1; done"
    # It takes its time to end, and what it started goes on starting others meanwhile.
    patient = 'trap "sleep 1; exit" TERM; bash -c "$1" "$0" & wait'
    with subprocess.Popen(["bash", "-c", patient, seconds, restless]) as process:
        time.sleep(0.5)
        assert ProcessId.of(process.pid).stop()
    assert not [one for one in psutil.process_iter(["cmdline"]) if seconds in (one.info["cmdline"] or ())]


def test_an_absent_home_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEANLOOP_TRITON_HOME", raising=False)
    with pytest.raises(ServingError, match="make setup"):
        TritonHome.find()
    with pytest.raises(ServingError, match=r"serving\.triton_home"):
        TritonHome.find(str(tmp_path / "elsewhere"))
    monkeypatch.setenv("LEANLOOP_TRITON_HOME", str(tmp_path))
    with pytest.raises(ServingError, match="no working Python"):
        TritonHome.find()


def test_an_environment_without_triton_is_refused(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.base_prefix + "/bin/python3")
    (tmp_path / "pyvenv.cfg").write_text("home = " + sys.base_prefix + "/bin\n")
    with pytest.raises(ServingError, match="lacks a part"):
        TritonHome.find(str(tmp_path))
