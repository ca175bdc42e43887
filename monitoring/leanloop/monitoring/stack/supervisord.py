"""supervisord: its configuration, its socket, and how it is talked to."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leanloop.core.errors import ServingError
from leanloop.core.files import digest_json
from leanloop.monitoring.stack.plan import Program

if TYPE_CHECKING:
    from xmlrpc.client import ServerProxy

_SUN_PATH_BYTES = 107
"""The longest name of a Unix socket."""

_TEMPORARY_SUFFIX_BYTES = len(".4194304")
"""supervisord binds ``<name>.<its pid>`` first."""

_LOG_BYTES = 10 << 20
_KEPT_LOGS = 3
_START_SECONDS = 3
_START_RETRIES = 50


def socket_path(folder: Path) -> Path:
    """Where the supervisor of this folder listens: in it, or, where that name is too long, in the temporary folder.

    Raises:
        ServingError: Somebody else made our folder there, or that name is too long, too.
    """
    near = folder / "supervisor.sock"
    if _fits(near):
        return near
    far = Path(tempfile.gettempdir()) / f"leanloop-{os.getuid()}-{digest_json(str(folder))[:16]}"
    if not _fits(far / near.name):
        raise ServingError(
            "The temporary folder's name is too long for the supervisor's socket.",
            where="TMPDIR",
            value=far / near.name,
            fix="Set TMPDIR to a folder with a shorter name.",
        )
    far.mkdir(mode=0o700, exist_ok=True)
    found = far.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ServingError(
            "The folder of the supervisor's socket is open to others.",
            where=str(far),
            value=f"owner {found.st_uid}, mode {stat.filemode(found.st_mode)}",
            fix="Remove it, or set TMPDIR to a folder of your own.",
        )
    return far / near.name


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) + _TEMPORARY_SUFFIX_BYTES <= _SUN_PATH_BYTES


def render(programs: tuple[Program, ...], *, socket: Path, logs: Path, directory: Path) -> str:
    """``supervisord.conf``.

    Args:
        programs: In the order of their start; they are ended in the opposite order.
        socket: Where it listens.
        logs: Folder of all logs.
        directory: Where those run that need no other.

    Raises:
        ServingError: A path cannot be written into such a file.
    """
    sections = [
        _section("unix_http_server", {"file": socket, "chmod": "0700"}),
        _section(
            "supervisord",
            {
                "logfile": logs / "supervisord.log",
                "logfile_maxbytes": _LOG_BYTES,
                "logfile_backups": 1,
                "pidfile": logs / "supervisord.pid",
                "childlogdir": logs,
                "nocleanup": "true",
                "umask": "022",
            },
        ),
        _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        *(_program(program, rank, logs, directory) for rank, program in enumerate(programs)),
    ]
    return "\n".join(sections)


def _program(program: Program, rank: int, logs: Path, directory: Path) -> str:
    # A killed supervisor must leave nobody behind who holds a port: its programs end with it.
    command = shlex.join(["setpriv", "--pdeathsig", "TERM", *program.command])
    values: dict[str, object] = {
        "command": command,
        "directory": program.directory or directory,
        "priority": rank,
        "autorestart": "true",
        "startsecs": _START_SECONDS,
        "startretries": _START_RETRIES,
        "stopsignal": "TERM",
        "stopwaitsecs": program.end_seconds,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": logs / f"{program.name}.log",
        "stdout_logfile_maxbytes": _LOG_BYTES,
        "stdout_logfile_backups": _KEPT_LOGS,
    }
    if program.environment:
        values["environment"] = ",".join(f'{name}="{value}"' for name, value in program.environment.items())
    return _section(f"program:{program.name}", values)


def _section(name: str, values: dict[str, object]) -> str:
    lines = [f"{key}={_escaped(str(value))}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _escaped(value: str) -> str:
    # What follows a space and one of these would be taken for a comment.
    if any(mark in value for mark in (" ;", " #", "\n")):
        raise ServingError(
            "A path cannot be written into the supervisor's configuration.",
            where="workspace",
            value=value,
            fix="Choose a folder whose name has no ' ;' and no ' #'.",
        )
    return value.replace("%", "%%")


def connect(socket: Path) -> ServerProxy:
    """A client of the supervisor's XML-RPC interface; it connects when it is first used."""
    from xmlrpc.client import ServerProxy

    from supervisor.xmlrpc import SupervisorTransport

    return ServerProxy("http://localhost", transport=SupervisorTransport(None, None, f"unix://{socket}"))


def answers(socket: Path) -> bool:
    """Whether the supervisor takes calls; its socket is there a moment before it listens."""
    try:
        process_infos(connect(socket))
    except OSError:
        return False
    return True


def process_infos(proxy: ServerProxy) -> list[dict[str, Any]]:
    """What the supervisor says of each program: supervisor's ``getAllProcessInfo``."""
    return cast(list[dict[str, Any]], proxy.supervisor.getAllProcessInfo())
