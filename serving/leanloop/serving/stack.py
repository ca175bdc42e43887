"""The local stack: one Triton, which stays when the command that started it ends, or which a supervisor keeps up.

Its folder holds ``models/`` (unless the settings name another repository), ``triton.log``, ``token`` (readable by the
owner only) and ``stack.json``, which says exactly which process is ours. ``keeper.json`` names the process that starts
Triton again when it ends: while that one lives, nobody else starts or ends it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import ClassVar, NoReturn

from leanloop.core.errors import ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving.client import Protocol, TritonClient
from leanloop.serving.health import VersionHealth, check_health
from leanloop.serving.home import TritonHome
from leanloop.serving.journal import Journal
from leanloop.serving.process import Ports, ProcessFile, ProcessId, locked, loopback_port
from leanloop.serving.repository import ModelRepository
from leanloop.serving.rollout import recover
from leanloop.serving.secret import kept_secret
from leanloop.serving.triton import TritonServer, is_live, log_tail

SUPERVISED_VARIABLE = "LEANLOOP_SUPERVISED"
"""Set where the parent of ``leanloop serve run`` is a supervisor, which starts it again when it ends."""

_POLL_SECONDS = 0.2


class StackState(ProcessFile):
    """``stack.json``: the running server."""

    filename: ClassVar[str] = "stack.json"
    http_url: str
    grpc_url: str
    metrics_url: str
    repository: str
    log: str
    started: str


class StackKeeper(ProcessFile):
    """``keeper.json``: the process that keeps Triton up."""

    filename: ClassVar[str] = "keeper.json"

    @classmethod
    def here(cls, folder: Path) -> StackKeeper:
        """The supervisor that this process is a child of, else this process, as the keeper of a folder's Triton."""
        process = ProcessId.of(os.getppid() if SUPERVISED_VARIABLE in os.environ else os.getpid())
        return cls(pid=process.pid, create_time=process.create_time, folder=str(folder.absolute()))


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


def capture_here(settings: ServingSettings, folder: Path) -> dict[str, str]:
    """Let the models of a stack that was moved or copied capture into it; `up` and `run` do the same.

    Returns:
        Where each changed model captured into, by model; none while Triton runs, which was started so.
    """
    with locked(folder):
        state = StackState.find(folder)
        if state is not None and is_live(state.http_url):
            return {}
        return _capture_here(repository(settings, folder), folder)


def up(settings: ServingSettings, folder: Path) -> StackState:
    """Start Triton with all models of the repository, unless it runs already.

    Safe to call twice, and by two at once. Where a supervisor keeps Triton up, this waits until it has.

    Raises:
        ServingError: A port is in use, Triton is not installed or does not come up, or it runs with other ports.
    """
    deadline = time.monotonic() + settings.start_timeout_seconds
    while True:
        with locked(folder):
            state = StackState.find(folder)
            if state is not None and is_live(state.http_url):
                _check_same(state, settings, repository(settings, folder))
                return state
            keeper = StackKeeper.find(folder)
            if keeper is None:
                if state is not None:
                    state.process.stop()
                return _start(_server(settings, folder), settings, folder)
        if time.monotonic() > deadline:
            raise ServingError(
                "The supervisor has not brought Triton up.",
                where=str(folder),
                value=f"kept up by process {keeper.pid}; waited {settings.start_timeout_seconds:g} s",
                fix="See `leanloop status`, and Triton's log.",
            )
        time.sleep(_POLL_SECONDS)


def run(settings: ServingSettings, folder: Path) -> None:
    """Be the stack's Triton until SIGTERM comes: for a supervisor, which starts it again when it fails.

    It has the lock, state and token of `up`, and publishes latency quantiles. One that `up` had started is ended
    first. To be called in the main thread, which alone receives signals.

    Raises:
        ServingError: See `up`; or Triton ended by itself; or another process keeps it up.
    """
    server = _server(settings, folder, attended=True)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with locked(folder):
            _keep(folder)
            state = StackState.find(folder)
            if state is not None:
                state.process.stop()
            _start(server, settings, folder)
        how = server.wait()
        raise ServingError(
            "Triton ended by itself.",
            where=str(server.log),
            value=f"{how}; its log ends with:\n{log_tail(server.log)}",
            fix="The supervisor starts it again; see the log if it ends often.",
        )
    except _EndAsked:
        if StackKeeper.find(folder) == StackKeeper.here(folder):
            (folder / StackKeeper.filename).unlink()
    finally:
        server.stop()
        signal.signal(signal.SIGTERM, before)


def is_up(folder: Path, *, kept: bool = False) -> bool:
    """Whether the stack's Triton is live and nobody is just starting it: its models have been loaded.

    Args:
        folder: Of the stack.
        kept: Only one that a supervisor keeps up counts.
    """
    if not (folder / StackState.filename).exists():
        return False
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        state = StackState.find(folder)
        return state is not None and is_live(state.http_url) and (not kept or StackKeeper.find(folder) is not None)


def is_starting(folder: Path) -> bool:
    """Whether somebody is just starting or ending the stack's Triton: its models need not answer now."""
    if not (folder / "lock").exists():
        return False
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def ports(settings: ServingSettings) -> Ports:
    """The loopback ports of a Triton of our own.

    Raises:
        ServingError: An address is not on this machine's loopback.
    """
    otherwise = ", or set serving.autostart to false to use a Triton elsewhere"
    return Ports(
        http=loopback_port(settings.http_url, "serving.http_url", otherwise),
        grpc=loopback_port(settings.grpc_url, "serving.grpc_url", otherwise),
        metrics=loopback_port(settings.metrics_url, "serving.metrics_url", otherwise),
    )


def _server(settings: ServingSettings, folder: Path, *, attended: bool = False) -> TritonServer:
    return TritonServer(
        TritonHome.find(settings.triton_home),
        repository(settings, folder).root,
        ports(settings),
        folder.absolute(),
        token=kept_secret(folder / "token"),
        start_timeout=settings.start_timeout_seconds,
        detached=not attended,
        summaries=attended,
    )


def _start(server: TritonServer, settings: ServingSettings, folder: Path) -> StackState:
    models = repository(settings, folder)
    process = server.launch()
    try:
        state = StackState(
            pid=process.pid,
            create_time=process.create_time,
            folder=str(folder.absolute()),
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


def _capture_here(models: ModelRepository, folder: Path) -> dict[str, str]:
    here = folder.absolute() / "capture"
    Journal(folder).capture_into(here)
    return models.capture_into(here)


def _load_all(settings: ServingSettings, folder: Path, models: ModelRepository) -> None:
    _capture_here(models, folder)
    with connect(settings, folder) as client:
        for model in models.models():
            # One that fails must not keep the others from serving: the server keeps the reason, `status` tells it.
            with suppress(ServingError):
                client.load(model)
        recover(client, models, Journal(folder))


def down(folder: Path) -> bool:
    """End the stack's server, and nothing else.

    Returns:
        False when none runs.

    Raises:
        ServingError: A supervisor keeps it up.
    """
    if not folder.is_dir():
        return False
    with locked(folder):
        keeper = StackKeeper.find(folder)
        if keeper is not None:
            raise ServingError(
                "A supervisor keeps Triton up, and would start it again.",
                where=str(folder),
                value=f"process {keeper.pid}",
                fix="End the whole stack with `leanloop down`.",
            )
        state = StackState.find(folder)
        stopped = state is not None and state.process.stop()
        (folder / StackState.filename).unlink(missing_ok=True)
        return stopped


def status(settings: ServingSettings, folder: Path) -> StackStatus:
    """What runs now; every version that should be served is asked."""
    state = StackState.find(folder)
    if state is None or not is_live(state.http_url):
        return StackStatus(state, live=False, versions=())
    with connect(settings, folder) as client:
        return StackStatus(state, live=True, versions=check_health(client, ModelRepository(Path(state.repository))))


def _check_same(state: StackState, settings: ServingSettings, models: ModelRepository) -> None:
    if state.repository != str(models.root):
        raise ServingError(
            "Triton runs already, on another model repository: its workspace was moved, or the settings have changed.",
            where="serving.repository",
            value=f"{state.repository}, asked for {models.root}",
            fix="End it with `leanloop serve down`, and start it again.",
        )
    for key in ("http_url", "grpc_url", "metrics_url"):
        if getattr(state, key) != getattr(settings, key):
            raise ServingError(
                "Triton runs already, at another address than the settings say.",
                where=f"serving.{key}",
                value=f"{getattr(state, key)}, asked for {getattr(settings, key)}",
                fix="End it with `leanloop serve down`, or correct the settings.",
            )


def _keep(folder: Path) -> None:
    here, other = StackKeeper.here(folder), StackKeeper.find(folder)
    if other is not None and other != here:
        raise ServingError(
            "Another process keeps this stack's Triton up.",
            where=str(folder),
            value=f"process {other.pid}",
            fix="End it first: `leanloop down`, or Ctrl-C where `leanloop serve run` runs.",
        )
    here.save(folder)


class _EndAsked(BaseException):
    """SIGTERM came."""


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # A second one must not interrupt the ending.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _EndAsked
