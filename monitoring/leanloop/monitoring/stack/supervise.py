"""The whole stack: started, looked at and ended.

supervisord starts every program again when it ends. ``supervisor.json`` says exactly which supervisord is ours; the
programs end with it, however it ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, cast

from leanloop.core.errors import ServingError
from leanloop.core.files import write_text
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.stack import supervisord
from leanloop.monitoring.stack.plan import (
    SETTINGS_FILE,
    Plan,
    ProgramName,
    address,
    is_answering,
    log_folder,
    make_plan,
    stack_folder,
    token_file,
    usual_programs,
)
from leanloop.serving import stack as serving_stack
from leanloop.serving.process import ProcessFile, ProcessId, check_port_free, locked
from leanloop.serving.secret import kept_secret
from leanloop.serving.triton import log_tail

_POLL_SECONDS = 0.2
_SUPERVISOR_SECONDS = 15.0
_PROGRAM_SECONDS = 60.0
"""So long may the programs take to answer, besides `ServingSettings.start_timeout_seconds`."""
_END_SECONDS = 90.0

_GIVEN_UP = ("BACKOFF", "FATAL")
_CONF = "supervisord.conf"


class SupervisorState(ProcessFile):
    """``supervisor.json``: the running supervisord."""

    filename: ClassVar[str] = "supervisor.json"
    socket: str
    started: str


@dataclass(frozen=True)
class ProgramStatus:
    """One program, as it is now.

    Attributes:
        name: What the supervisor calls it.
        state: supervisord's word: RUNNING, STARTING, BACKOFF, FATAL, ...
        answers: Whether it does its work: it was just asked.
        pid: Of its process; None when there is none.
        since: When that was started.
        restarts: How often it was started again since the stack is up.
        address: ``host:port`` where it answers.
    """

    name: ProgramName
    state: str
    answers: bool
    pid: int | None
    since: datetime | None
    restarts: int
    address: str


def up(settings: Settings, project: Path, names: Collection[ProgramName] | None = None) -> tuple[ProgramStatus, ...]:
    """Start the stack, and wait until every program answers.

    Safe to call twice: what runs goes on running, and what was given up is started again.

    Args:
        settings: With absolute paths.
        project: Where the service starts runs.
        names: Programs to start; without it, all that the settings ask for.

    Raises:
        ServingError: A port is in use; a program is not installed or does not come up (then nothing is left running);
            or the stack runs already with other settings.
    """
    workspace = Workspace(settings)
    with locked(stack_folder(workspace)):
        plan = _plan(settings, project, usual_programs(settings) if names is None else names)
        state = _state(workspace)
        if state is not None:
            _check_same(plan)
            _start_given_up(state)
            # These starts are ours; another one before it answers means that a program ended.
            _wait(settings, plan, state, _restarts(workspace))
        else:
            _check_ports(plan, workspace)
            state = _launch(plan, workspace)
            try:
                _wait(settings, plan, state, {})
            except BaseException:
                _end(state, workspace)
                raise
    return programs(settings)


def down(settings: Settings) -> bool:
    """End the stack that `up` started, and nothing else; returns when all of it has ended.

    Returns:
        False when it does not run.
    """
    workspace = Workspace(settings)
    if not stack_folder(workspace).is_dir():
        return False
    with locked(stack_folder(workspace)):
        state = _state(workspace)
        if state is not None:
            _end(state, workspace)
        return state is not None


def programs(settings: Settings) -> tuple[ProgramStatus, ...]:
    """Every program of the running stack, in the order of their start; none when it does not run."""
    workspace = Workspace(settings)
    state = _state(workspace)
    if state is None:
        return ()
    restarts = _restarts(workspace)
    # As they were when it was started: the caller's may have changed since.
    settings = Settings.from_json((stack_folder(workspace) / SETTINGS_FILE).read_text(encoding="utf-8"))
    found = []
    for info in _ask(state):
        name = cast(ProgramName, info["name"])
        running = info["pid"] != 0
        found.append(
            ProgramStatus(
                name=name,
                state=str(info["statename"]),
                answers=running and is_answering(name, settings),
                pid=cast(int, info["pid"]) if running else None,
                since=datetime.fromtimestamp(cast(int, info["start"]), UTC) if running else None,
                restarts=restarts.get(name, 0),
                address=address(name, settings),
            )
        )
    order = usual_programs(settings)
    return tuple(sorted(found, key=lambda program: order.index(program.name)))


def _plan(settings: Settings, project: Path, names: Collection[ProgramName]) -> Plan:
    workspace = Workspace(settings)
    folder = stack_folder(workspace)
    plan = make_plan(settings, project, names)
    conf = supervisord.render(
        plan.programs,
        socket=supervisord.socket_path(folder),
        logs=log_folder(workspace),
        directory=project,
    )
    return Plan(plan.programs, {**plan.files, folder / _CONF: conf})


def _check_same(plan: Plan) -> None:
    for path, content in plan.files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            raise ServingError(
                "The stack runs already, with other settings.",
                where=str(path),
                fix="Run `leanloop down`, then `leanloop up`.",
            )


def _check_ports(plan: Plan, workspace: Workspace) -> None:
    # `serve up` or a deploy may have started a Triton of ours: `serve run` takes over from it.
    ours = serving_stack.is_up(workspace.serving)
    for program in plan.programs:
        if program.name != "triton" or not ours:
            for where, port in program.ports.items():
                check_port_free(port, where)


def _launch(plan: Plan, workspace: Workspace) -> SupervisorState:
    folder, logs = stack_folder(workspace), log_folder(workspace)
    for path, content in plan.files.items():
        write_text(path, content)
    kept_secret(token_file(workspace))
    logs.mkdir(parents=True, exist_ok=True)
    # Restarts are counted in this log, so it begins with the stack.
    for log in _supervisor_logs(workspace):
        log.replace(log.with_name(f"previous.{log.name}"))
    errors = logs / "supervisord.err"
    socket = supervisord.socket_path(folder)
    socket.unlink(missing_ok=True)
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--silent", "-c", folder / _CONF],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
    ours = ProcessId.of(process.pid)
    state = SupervisorState(
        pid=ours.pid,
        create_time=ours.create_time,
        folder=str(folder.absolute()),
        socket=str(socket),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    state.save(folder)
    deadline = time.monotonic() + _SUPERVISOR_SECONDS
    while not supervisord.answers(socket):
        if process.poll() is not None or time.monotonic() > deadline:
            _end(state, workspace)
            raise ServingError(
                "The supervisor did not come up.",
                where=str(errors),
                value=log_tail(errors),
                fix="Correct what it complains about, and run `leanloop up` again.",
            )
        time.sleep(_POLL_SECONDS)
    return state


def _wait(settings: Settings, plan: Plan, state: SupervisorState, restarts: Mapping[str, int]) -> None:
    """Wait until all programs answer; one that ends before is an error, though it would be started again."""
    workspace = Workspace(settings)
    deadline = time.monotonic() + _PROGRAM_SECONDS + settings.serving.start_timeout_seconds
    waiting = [program.name for program in plan.programs]
    while waiting := [name for name in waiting if not is_answering(name, settings)]:
        again = _restarts(workspace)
        for info in _ask(state):
            name = str(info["name"])
            if name in waiting and (info["statename"] in _GIVEN_UP or again.get(name, 0) > restarts.get(name, 0)):
                raise _failed(workspace, name, "it ended")
        if time.monotonic() > deadline:
            raise _failed(workspace, waiting[0], "it does not answer")
        time.sleep(_POLL_SECONDS)


def _failed(workspace: Workspace, name: str, value: str) -> ServingError:
    log = log_folder(workspace) / f"{name}.log"
    tail = log_tail(log) if log.exists() else ""
    return ServingError(
        f"The stack's {name} did not come up.",
        where=str(log),
        value=f"{value}; its log ends with:\n{tail}",
        fix="Correct what the log complains about, and run `leanloop up` again.",
    )


def _start_given_up(state: SupervisorState) -> None:
    proxy = supervisord.connect(Path(state.socket))
    for info in supervisord.process_infos(proxy):
        if info["statename"] in ("FATAL", "EXITED", "STOPPED"):
            proxy.supervisor.startProcess(info["name"], False)


def _end(state: SupervisorState, workspace: Workspace) -> None:
    state.process.stop(_END_SECONDS)
    Path(state.socket).unlink(missing_ok=True)
    (stack_folder(workspace) / SupervisorState.filename).unlink(missing_ok=True)


def _state(workspace: Workspace) -> SupervisorState | None:
    return SupervisorState.find(stack_folder(workspace))


def _ask(state: SupervisorState) -> list[dict[str, object]]:
    try:
        return supervisord.process_infos(supervisord.connect(Path(state.socket)))
    except (OSError, xmlrpc.client.Error) as error:
        raise ServingError(
            "The supervisor does not answer.",
            where=state.socket,
            value=error,
            fix="Run `leanloop down`, then `leanloop up`.",
        ) from error


def _supervisor_logs(workspace: Workspace) -> tuple[Path, ...]:
    return tuple(log_folder(workspace).glob("supervisord.log*"))


def _restarts(workspace: Workspace) -> dict[str, int]:
    """How often each program was started again; supervisord tells it in its log only."""
    starts: dict[str, int] = {}
    for log in _supervisor_logs(workspace):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            _, spawned, rest = line.partition(" spawned: '")
            if spawned:
                name = rest.partition("'")[0]
                starts[name] = starts.get(name, 0) + 1
    return {name: count - 1 for name, count in starts.items()}
