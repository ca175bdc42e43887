"""What the stack consists of: its programs with their commands, and the files that they read.

Nothing is started or written here. All of it lies in the workspace's ``monitoring`` folder:

    stack/        settings.json, prometheus.yml, rules.yml, alertmanager.yml, supervisord.conf, supervisor.json
    logs/         one log per program, and the supervisor's
    prometheus/   its series
    alertmanager/ its silences, and what it has told
    token         opens the writes of leanloop's service; readable by its owner only
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.stack import alertmanager, prometheus, rules
from leanloop.monitoring.stack.programs import need_program
from leanloop.serving.home import TritonHome
from leanloop.serving.process import LOOPBACK, answers, loopback_port
from leanloop.serving.stack import SUPERVISED_VARIABLE, is_up, ports

ProgramName = Literal["triton", "prometheus", "alertmanager", "leanloop"]

SETTINGS_FILE = "settings.json"
"""In `stack_folder`: the settings that the stack was started with."""

_RETENTION = "15d"
_ALERTMANAGER_OTHERWISE = ", or leave it empty: alerts are then read from Prometheus"


@dataclass(frozen=True)
class Program:
    """One program of the stack.

    Attributes:
        name: What the supervisor calls it.
        command: With absolute paths.
        ports: Loopback ports by the setting that names them.
        end_seconds: It may take so long to end.
        environment: Variables besides the inherited ones.
        directory: Where it must run; None where that does not matter.
    """

    name: ProgramName
    command: tuple[str, ...]
    ports: Mapping[str, int]
    end_seconds: int
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


@dataclass(frozen=True)
class Plan:
    """The stack, ready to be started.

    Attributes:
        programs: In the order of their start.
        files: Contents by path.
    """

    programs: tuple[Program, ...]
    files: Mapping[Path, str]


def stack_folder(workspace: Workspace) -> Path:
    """Where the stack's files lie."""
    return workspace.monitoring / "stack"


def log_folder(workspace: Workspace) -> Path:
    """Where the programs' logs lie."""
    return workspace.monitoring / "logs"


def token_file(workspace: Workspace) -> Path:
    """The file with the bearer token of leanloop's service."""
    return workspace.monitoring / "token"


def usual_programs(settings: Settings) -> tuple[ProgramName, ...]:
    """The programs that these settings ask for, in the order of their start."""
    triton: tuple[ProgramName, ...] = ("triton",) if settings.serving.autostart else ()
    alerts: tuple[ProgramName, ...] = ("alertmanager",) if settings.monitoring.alertmanager_url else ()
    return (*triton, *alerts, "prometheus", "leanloop")


def make_plan(settings: Settings, project: Path, names: Collection[ProgramName]) -> Plan:
    """The stack of these settings, whose paths must be absolute.

    Args:
        settings: All of them; they travel to the service.
        project: Where the service starts runs.
        names: Programs to start.

    Raises:
        ServingError: A program is not installed, or an address is not on this machine's loopback.
    """
    if "triton" in names:
        home = TritonHome.find(settings.serving.triton_home)
        serving = settings.serving.model_copy(update={"triton_home": str(home.folder)})
        settings = settings.model_copy(update={"serving": serving})
    workspace = Workspace(settings)
    folder = stack_folder(workspace)
    files = {
        folder / SETTINGS_FILE: settings.to_json() + "\n",
        folder / "prometheus.yml": prometheus.render(settings),
        folder / prometheus.RULES_FILE: rules.render(settings.monitoring),
    }
    if "alertmanager" in names:
        files[folder / "alertmanager.yml"] = alertmanager.render(settings.monitoring, token_file(workspace))
    makers: dict[ProgramName, Callable[[Settings, Path], Program]] = {
        "triton": _triton,
        "prometheus": _prometheus,
        "alertmanager": _alertmanager,
        "leanloop": partial(_leanloop, project=project),
    }
    return Plan(tuple(makers[name](settings, folder) for name in usual_programs(settings) if name in names), files)


def address(name: ProgramName, settings: Settings) -> str:
    """``host:port`` where a program answers."""
    monitoring = settings.monitoring
    return {
        "triton": settings.serving.http_url,
        "prometheus": monitoring.prometheus_url,
        "alertmanager": monitoring.alertmanager_url,
        "leanloop": monitoring.service_url,
    }[name]


def is_answering(name: ProgramName, settings: Settings) -> bool:
    """Whether a program is up and answers; Triton: with its models loaded."""
    if name == "triton":
        return is_up(Workspace(settings).serving, kept=True)
    path = "/v1/health" if name == "leanloop" else "/-/ready"
    return answers(address(name, settings), path)


def _triton(settings: Settings, folder: Path) -> Program:
    return Program(
        name="triton",
        command=_leanloop_command("serve", "run", "--params", str(folder / SETTINGS_FILE)),
        ports={f"serving.{use}_url": port for use, port in vars(ports(settings.serving)).items()},
        end_seconds=20,
        environment={SUPERVISED_VARIABLE: "1"},
    )


def _prometheus(settings: Settings, folder: Path) -> Program:
    port = loopback_port(settings.monitoring.prometheus_url, "monitoring.prometheus_url")
    command = (
        str(need_program("prometheus")),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder.parent / 'prometheus'}",
        f"--storage.tsdb.retention.time={_RETENTION}",
        *_listening(port),
    )
    return Program("prometheus", command, {"monitoring.prometheus_url": port}, 20)


def _alertmanager(settings: Settings, folder: Path) -> Program:
    port = loopback_port(settings.monitoring.alertmanager_url, "monitoring.alertmanager_url", _ALERTMANAGER_OTHERWISE)
    program = need_program("alertmanager")
    command = (
        str(program),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder.parent / 'alertmanager'}",
        "--cluster.listen-address=",
        *_listening(port),
    )
    # The one that `make setup` unpacks looks for its templates from here.
    share = program.parent.parent / "share" / "prometheus"
    return Program(
        "alertmanager", command, {"monitoring.alertmanager_url": port}, 10, directory=share if share.is_dir() else None
    )


def _leanloop(settings: Settings, folder: Path, project: Path) -> Program:
    port = loopback_port(settings.monitoring.service_url, "monitoring.service_url")
    command = _leanloop_command("monitor", "--params", str(folder / SETTINGS_FILE), "--project", str(project))
    return Program("leanloop", command, {"monitoring.service_url": port}, 30)


def _leanloop_command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "leanloop.pipelines", *arguments)


def _listening(port: int) -> tuple[str, str]:
    return f"--web.listen-address={LOOPBACK}:{port}", f"--web.external-url=http://{LOOPBACK}:{port}"
