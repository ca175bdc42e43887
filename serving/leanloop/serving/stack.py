"""The local stack: one Triton that stays when the command that started it ends.

Its folder holds ``models/`` (unless the settings name another repository), ``triton.log``, ``token`` (readable by the
owner only) and ``stack.json``, which says exactly which process is ours.
"""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from leanloop.core.contracts import FileContract
from leanloop.core.errors import ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving.client import Protocol, TritonClient
from leanloop.serving.health import VersionHealth, check_health
from leanloop.serving.home import TritonHome
from leanloop.serving.process import LOOPBACK, Ports, ProcessId
from leanloop.serving.repository import ModelRepository
from leanloop.serving.triton import TritonServer, is_live


class StackState(FileContract):
    """``stack.json``: the running server."""

    filename: ClassVar[str] = "stack.json"
    pid: int
    create_time: float
    http_url: str
    grpc_url: str
    metrics_url: str
    repository: str
    log: str
    started: str

    @property
    def process(self) -> ProcessId:
        """The very process, never one that got its number later."""
        return ProcessId(self.pid, self.create_time)


@dataclass(frozen=True)
class StackStatus:
    """What runs, and how every version that should be served answers; ``state`` is None when nothing runs."""

    state: StackState | None
    live: bool
    versions: tuple[VersionHealth, ...]


def repository(settings: ServingSettings, folder: Path) -> ModelRepository:
    """The repository of the settings, or ``models`` in the stack's folder."""
    return ModelRepository(Path(settings.repository).expanduser() if settings.repository else folder / "models")


def connect(settings: ServingSettings, folder: Path, protocol: Protocol = "grpc") -> TritonClient:
    """A client of the server that the settings name, with this stack's token where there is one."""
    token = folder / "token"
    return TritonClient(
        settings.http_url,
        settings.grpc_url,
        protocol,
        token=token.read_text(encoding="utf-8") if token.exists() else "",
    )


def up(settings: ServingSettings, folder: Path) -> StackState:
    """Start Triton with all models of the repository, unless it runs already.

    Safe to call twice, and by two at once.

    Raises:
        ServingError: A port is in use, Triton is not installed or does not come up, or it runs with other ports.
    """
    with _locked(folder):
        state = _state(folder)
        if state is not None and is_live(state.http_url):
            _check_same(state, settings)
            return state
        if state is not None:
            state.process.stop()
        return _start(settings, folder)


def ports(settings: ServingSettings) -> Ports:
    """The loopback ports of a Triton of our own.

    Raises:
        ServingError: An address is not on this machine's loopback.
    """
    return Ports(
        http=_port(settings.http_url, "http_url"),
        grpc=_port(settings.grpc_url, "grpc_url"),
        metrics=_port(settings.metrics_url, "metrics_url"),
    )


def _start(settings: ServingSettings, folder: Path) -> StackState:
    models = repository(settings, folder)
    server = TritonServer(
        TritonHome.find(settings.triton_home),
        models.root,
        ports(settings),
        folder.absolute(),
        token=_new_token(folder),
        start_timeout=settings.start_timeout_seconds,
        detached=True,
    )
    process = server.launch()
    try:
        state = StackState(
            pid=process.pid,
            create_time=process.create_time,
            http_url=settings.http_url,
            grpc_url=settings.grpc_url,
            metrics_url=settings.metrics_url,
            repository=str(models.root),
            log=str(server.log),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        state.save(folder)
        server.wait_live()
        _load_all(settings, folder, models)
    except BaseException:
        server.stop()
        (folder / StackState.filename).unlink(missing_ok=True)
        raise
    return state


def _load_all(settings: ServingSettings, folder: Path, models: ModelRepository) -> None:
    with connect(settings, folder) as client:
        for model in models.models():
            # One that fails must not keep the others from serving: the server keeps the reason, `status` tells it.
            with suppress(ServingError):
                client.load(model)


def down(folder: Path) -> bool:
    """End the stack's server, and nothing else.

    Returns:
        False when none runs.
    """
    if not folder.is_dir():
        return False
    with _locked(folder):
        state = _state(folder)
        stopped = state is not None and state.process.stop()
        (folder / StackState.filename).unlink(missing_ok=True)
        return stopped


def status(settings: ServingSettings, folder: Path) -> StackStatus:
    """What runs now; every version that should be served is asked."""
    state = _state(folder)
    if state is None or not is_live(state.http_url):
        return StackStatus(state, live=False, versions=())
    with connect(settings, folder) as client:
        return StackStatus(state, live=True, versions=check_health(client, ModelRepository(Path(state.repository))))


def _state(folder: Path) -> StackState | None:
    if not (folder / StackState.filename).exists():
        return None
    state = StackState.load(folder)
    return state if state.process.find() is not None else None


def _check_same(state: StackState, settings: ServingSettings) -> None:
    for key in ("http_url", "grpc_url", "metrics_url"):
        if getattr(state, key) != getattr(settings, key):
            raise ServingError(
                "Triton runs already, at another address than the settings say.",
                where=f"serving.{key}",
                value=f"{getattr(state, key)}, asked for {getattr(settings, key)}",
                fix="End it with `leanloop serve down`, or correct the settings.",
            )


def _port(url: str, key: str) -> int:
    host, _, port = url.rpartition(":")
    if host in (LOOPBACK, "localhost") and port.isdecimal() and 0 < int(port) < 65536:
        return int(port)
    raise ServingError(
        "A Triton of our own listens on this machine's loopback only.",
        where=f"serving.{key}",
        value=url,
        fix=f"Write {LOOPBACK}:<port>, or set serving.autostart to false to use a Triton elsewhere.",
    )


def _new_token(folder: Path) -> str:
    token = secrets.token_urlsafe(32)
    path = folder / "token"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(token, encoding="utf-8")
    return token


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
