"""Running a pipeline locally: KFP's own local runner, in a child process with its own environment.

`kfp.local` keeps process-wide state, patches ``print`` and replaces logging handlers, so it never runs in the process
that talks to the user.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from leanloop.core.contracts import Aim, Release, ServingChoice
from leanloop.core.errors import LeanloopError, RefusedError, StoreError
from leanloop.core.events import EVENTS_VARIABLE, read_events
from leanloop.core.files import read_json, write_json
from leanloop.core.names import code_version
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace


class RunError(LeanloopError):
    """A run ended without a release."""


class RunRefusedError(RunError):
    """A re-optimisation found nothing better than what serves; that serves on."""


@dataclass(frozen=True)
class Run:
    """A run's folder."""

    folder: Path

    @property
    def events(self) -> Path:
        """What the steps report as they go."""
        return self.folder / "events.jsonl"

    @property
    def log(self) -> Path:
        """All output of the pipeline's processes."""
        return self.folder / "log.txt"

    @property
    def request(self) -> Path:
        """The pipeline's arguments."""
        return self.folder / "request.json"

    @property
    def outputs(self) -> Path:
        """Where the pipeline's results are."""
        return self.folder / "outputs.json"

    @property
    def report(self) -> Path:
        """The run's report, in HTML."""
        return self.folder / "report.html"

    def step_folder(self, step: str) -> Path:
        """The output folder of a finished step, such as ``benchmark``.

        Raises:
            StoreError: The run has none.
        """
        release = Path(read_json(self.outputs)["release"])
        task = release.parents[1] / step
        found = sorted(path for path in task.iterdir() if path.is_dir()) if task.is_dir() else []
        if not found:
            raise StoreError("The run holds no result of this step.", where=str(release.parents[1]), value=step)
        return found[0]

    def release(self) -> Release:
        """The run's release."""
        return Release.load(Path(read_json(self.outputs)["release"]))


def new_run(settings: Settings, project: Path, name: str | None = None) -> Run:
    """Make the folder of a new run, with its request.

    Args:
        settings: With absolute paths (`leanloop.core.workspace.with_absolute_paths`).
        project: Folder of params.yaml.
        name: Of the run; made up without it.
    """
    arguments = {
        "settings": settings.to_json(),
        "project": str(project.resolve()),
        "code_version": code_version(),
        "workers": list(range(settings.optimize.workers)),
    }
    return _new(settings, name, {"pipeline": "optimize", **arguments})


def new_reoptimisation(
    settings: Settings,
    release: Release,
    *,
    since: float,
    aim: Aim,
    incident: str | None = None,
    name: str | None = None,
) -> Run:
    """Make the folder of a new re-optimisation of a served model, with its request; its server must be running.

    Args:
        settings: With absolute paths.
        release: What serves.
        since: Unix time of the oldest captured request that counts as fresh.
        aim: What must get better.
        incident: That the run shall end; kept in the request.
        name: Of the run; made up without it.
    """
    # A server that this run started would be as slow and as confined as the run itself.
    serving = settings.serving.model_copy(update={"autostart": False})
    arguments = {
        "settings": settings.model_copy(update={"serving": serving}).to_json(),
        "release": release.model_dump_json(),
        "since": since,
        "aim": aim,
        "incident": incident or "",
        "code_version": code_version(),
    }
    beside = {"pipeline": "reoptimize", "cores": spare_cores(release.choice)}
    return _new(settings, name, {**beside, **arguments})


def new_retuning(
    settings: Settings, release: Release, *, concurrency: int, incident: str | None = None, name: str | None = None
) -> Run:
    """Make the folder of a new re-tuning of a served model, with its request.

    Args:
        settings: With absolute paths.
        release: What serves.
        concurrency: Requests under way at the same time, as live traffic has them.
        incident: That the run shall end.
        name: Of the run; made up without it.
    """
    request = {
        "pipeline": "retune",
        "settings": settings.to_json(),
        "release": release.model_dump_json(),
        "concurrency": concurrency,
        "incident": incident or "",
        "code_version": code_version(),
    }
    return _new(settings, name, request)


def spare_cores(choice: ServingChoice) -> list[int]:
    """Cores that a run beside a server may use: those that its instances and its front end leave, but at least one.

    Empty where the system does not let a process choose.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    available = sorted(os.sched_getaffinity(0))
    return available[choice.instances * choice.threads + 1 :] or available[-1:]


def _new(settings: Settings, name: str | None, request: dict[str, object]) -> Run:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run = Run(Workspace(settings).runs / (name or f"{settings.model.name}-{stamp}-{secrets.token_hex(2)}"))
    run.folder.mkdir(parents=True)
    write_json(run.request, request)
    return run


def start(run: Run) -> subprocess.Popen[bytes]:
    """Start the pipeline in a child process that leads its own group; its output goes to the run's log."""
    with run.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "leanloop.pipelines.local", str(run.folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=run.folder,
            env=child_environment(run),
            start_new_session=True,
        )


def child_environment(run: Run) -> dict[str, str]:
    """The environment of the pipeline's processes.

    The runner starts steps as ``python3`` from PATH in the current folder: this interpreter's folder goes first, and
    ``PYTHONSAFEPATH`` keeps a ``components/`` of the owner's from shadowing an installed package.
    """
    return {
        **os.environ,
        EVENTS_VARIABLE: str(run.events),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a started pipeline and every process of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def finish(run: Run, status: int) -> Release:
    """The release of an ended run.

    KFP's runners can report success for a task that failed, so the result itself is what counts.

    Raises:
        RunRefusedError: It is a re-optimisation that found nothing better.
        RunError: It failed; with what the failed step said.
    """
    if status == 0 and run.outputs.exists():
        return run.release()
    events, _ = read_events(run.events)
    failed = next((event for event in events if event["kind"] == "step_failed"), None)
    again = f"Then run again: finished trials are not repeated. All output is in {run.log}."
    if failed is None:
        raise RunError(
            "The run ended without a release.", value=f"exit status {status}", fix=f"Find the cause. {again}"
        )
    error = failed["error"]
    if error.get("kind") == RefusedError.__name__:
        raise RunRefusedError(
            f"Step {failed['step']} refused. {error['what']}",
            where=error["where"],
            value=error["value"],
            fix=error["fix"],
        )
    raise RunError(
        f"The run failed in step {failed['step']}. {error['what']}",
        where=error["where"],
        value=error["value"],
        fix=f"{error['fix'] or 'Mend the cause.'} {again}",
    )


def orchestration_share(run: Run) -> tuple[float, float]:
    """Wall-clock seconds of a run, and the share of them in which no step was at work."""
    events, _ = read_events(run.events)
    starts: dict[tuple[str, int | None], float] = {}
    spans = []
    for event in events:
        key = (event["step"], event.get("worker"))
        if event["kind"] == "step_started":
            starts[key] = event["time"]
        elif event["kind"] in ("step_finished", "step_failed"):
            spans.append((starts[key], event["time"]))
    begin = next(event["time"] for event in events if event["kind"] == "run_started")
    end = max(event["time"] for event in events)
    busy, reached = 0.0, begin
    for low, high in sorted(spans):
        busy += max(0.0, high - max(low, reached))
        reached = max(reached, high)
    return end - begin, 1.0 - busy / (end - begin)
