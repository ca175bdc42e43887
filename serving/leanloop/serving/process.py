"""Ports and processes: what is free, who holds it, and how exactly one process is ended."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Self

import psutil
from pydantic import Field

from leanloop.core.contracts import FileContract
from leanloop.core.errors import ServingError

LOOPBACK = "127.0.0.1"

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Ports:
    """The three ports of one server."""

    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> Self:
        """Three ports that nothing listens on now."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for one in sockets:
                one.bind((LOOPBACK, 0))
            return cls(*(one.getsockname()[1] for one in sockets))

    def check_free(self) -> None:
        """Refuse to start on a port that another process holds.

        Raises:
            ServingError: Names the port and, where the system tells, the process.
        """
        for use, port in vars(self).items():
            check_port_free(port, f"serving.{use}_url")


def check_port_free(port: int, where: str) -> None:
    """Refuse a loopback port that a process listens on.

    Args:
        port: Its number.
        where: The setting that names it.

    Raises:
        ServingError: Names the port and, where the system tells, the process.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((LOOPBACK, port))
        except OSError as error:
            raise ServingError(
                f"Port {port} is in use.",
                where=where,
                value=_holder(port),
                fix="End that process, or choose another port in the settings.",
            ) from error


def loopback_port(url: str, where: str, otherwise: str = "") -> int:
    """The port of ``host:port`` for a server of our own, which listens on loopback only.

    Args:
        url: As in the settings.
        where: The setting that holds it.
        otherwise: What else could be done, for the message.

    Raises:
        ServingError: The host is another one, or the port is none.
    """
    host, _, port = url.rpartition(":")
    if host in (LOOPBACK, "localhost") and port.isdecimal() and 0 < int(port) < 65536:
        return int(port)
    raise ServingError(
        "A server of our own listens on this machine's loopback only.",
        where=where,
        value=url,
        fix=f"Write {LOOPBACK}:<port>{otherwise}.",
    )


def _holder(port: int) -> str:
    for process in psutil.process_iter(["name"]):
        try:
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return f"process {process.pid} ({process.info['name']})"
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return "a process of another user"


def answers(address: str, path: str, seconds: float = 2.0) -> bool:
    """Whether a server at ``host:port`` answers a GET of this path with 200."""
    connection = http.client.HTTPConnection(address, timeout=seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone, among processes and threads; it is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class ProcessId:
    """A process named so that a recycled pid is never taken for it."""

    pid: int
    create_time: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """The running process ``pid``."""
        return cls(pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """The process, or None when it has ended (even if its number lives on in another)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def stop(self, seconds: float = 8.0) -> bool:
        """End the process and its children: ask, wait, then kill what is left.

        Returns:
            False when it had ended before.
        """
        process = self.find()
        if process is None:
            return False
        family = [*process.children(recursive=True), process]
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        _wait_ended([process], seconds)
        _wait_ended(_kill(family), seconds)
        return True


class ProcessFile(FileContract):
    """The process that works for a folder, in a file of that folder.

    A folder may be copied while its process lives: that one belongs to the first folder, and the copy must not end it.
    It may be moved, too: then its process goes with it.
    """

    pid: int
    create_time: float
    folder: str = Field("", description="that the file was written into")

    @property
    def process(self) -> ProcessId:
        """The very process, never one that got its number later."""
        return ProcessId(self.pid, self.create_time)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """What the folder's file says; None when there is none, its process has ended, or works for another folder."""
        if not (folder / cls.filename).exists():
            return None
        found = cls.load(folder)
        elsewhere = found.folder not in ("", str(folder.absolute()))
        copied = elsewhere and (Path(found.folder) / cls.filename).exists()
        return None if copied or found.process.find() is None else found


def _kill(family: list[psutil.Process]) -> list[psutil.Process]:
    """Kill processes and all that they have started by now; returns all of them."""
    left = [*family]
    killed: list[psutil.Process] = []
    while left:
        member = left.pop()
        with contextlib.suppress(psutil.NoSuchProcess):
            member.suspend()  # from now on it starts nothing more
            left += member.children()
            member.kill()
            killed.append(member)
    return killed


def _wait_ended(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until all have ended; one that its parent has not yet taken note of has."""
    deadline = time.monotonic() + seconds
    while not all(map(_has_ended, processes)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
