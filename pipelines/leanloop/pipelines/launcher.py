"""Runs that the monitor asks for: each a process of its own that outlives whoever started it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from leanloop.core.contracts import Aim, Release
from leanloop.core.errors import LeanloopError, ServingError, StoreError
from leanloop.core.events import read_events
from leanloop.core.launcher import Kind, RunRequest, RunState
from leanloop.core.releases import release_of, settings_key
from leanloop.core.settings import Settings, parse_settings
from leanloop.core.workspace import Workspace
from leanloop.pipelines import launch
from leanloop.pipelines.check import check_machine
from leanloop.serving import stack
from leanloop.serving.process import ProcessFile, ProcessId

_AIMS: dict[Kind, Aim] = {
    "re-optimise": "agreement",
    "fine-tune and re-optimise": "accuracy",
}

_FAR_PAST = 0.0


class RunProcess(ProcessFile):
    """``process.json`` in a run's folder: the process that carries it out."""

    filename: ClassVar[str] = "process.json"


class LocalLauncher:
    """Runs pipelines on this machine; implements `leanloop.core.launcher.Launcher`.

    Args:
        settings: With absolute paths.
        project: Folder that relative paths of the settings start from.
    """

    def __init__(self, settings: Settings, project: Path) -> None:
        self._settings, self._project = settings, project

    def start(self, request: RunRequest) -> None:
        """Start the run of this id, or start it again when its process died.

        Raises:
            LeanloopError: The machine or the release does not allow it.
        """
        run = self._run(request.id)
        if self.look(request.id).state not in ("absent", "died"):
            return
        if not run.request.exists():
            self._make(request)
        process = ProcessId.of(launch.start(run).pid)
        here = str(run.folder.absolute())
        RunProcess(pid=process.pid, create_time=process.create_time, folder=here).save(run.folder)

    def look(self, run: str) -> RunState:
        """How the run of this id stands, by its folder and its process."""
        found = self._run(run)
        if not (found.folder / RunProcess.filename).exists():
            return RunState(state="absent")
        if RunProcess.find(found.folder) is not None:
            return RunState(state="running")
        return self._ended(found)

    def end_all(self) -> tuple[str, ...]:
        """End all runs whose processes live, with what these have started; the next service starts them once more.

        Returns:
            Their ids.
        """
        folders = sorted(path.parent for path in Workspace(self._settings).runs.glob(f"*/{RunProcess.filename}"))
        at_work = ((folder.name, RunProcess.find(folder)) for folder in folders)
        return tuple(name for name, run in at_work if run is not None and run.process.stop())

    def _run(self, name: str) -> launch.Run:
        return launch.Run(Workspace(self._settings).runs / name)

    def _make(self, request: RunRequest) -> None:
        settings = self._for(request.model)
        if request.kind == "optimise":
            launch.new_run(check_machine(settings), self._project, name=request.id)
            return
        if request.kind == "re-tune":
            launch.new_retuning(
                check_machine(settings),
                self._release(request.model),
                concurrency=request.concurrency,
                incident=request.incident,
                name=request.id,
            )
            return
        launch.new_reoptimisation(
            check_machine(settings),
            self._release(request.model),
            since=_FAR_PAST if request.since is None else request.since,
            aim=_AIMS[request.kind],
            incident=request.incident,
            name=request.id,
        )

    def _for(self, model: str) -> Settings:
        """The settings that a model was released with, on this service's server, store and workspace."""
        if model == self._settings.model.name:
            return self._settings
        store = Workspace(self._settings).store
        document = store.get_json(settings_key(model))
        if document is None:
            raise StoreError(
                "The store does not hold the settings that this model was released with.",
                where=store.url,
                value=model,
                fix="Release it again: `leanloop run`.",
            )
        ours = ("serving", "monitoring", "store", "workspace")
        released = parse_settings(document, source=settings_key(model))
        return released.model_copy(update={name: getattr(self._settings, name) for name in ours})

    def _release(self, model: str) -> Release:
        workspace = Workspace(self._settings)
        config = stack.repository(self._settings.serving, workspace.serving).config(model)
        release = None if config is None else release_of(workspace.store, model, max(config.versions))
        if release is None:
            raise ServingError(
                "The store knows no release of what serves.",
                where=workspace.store.url,
                value=model,
                fix="Release it again: `leanloop run`.",
            )
        return release

    def _ended(self, run: launch.Run) -> RunState:
        events, _ = read_events(run.events)
        if not run.outputs.exists() and not any(event["kind"] == "step_failed" for event in events):
            return RunState(state="died", detail=f"its process is gone, see {run.log}")
        try:
            release = launch.finish(run, 0)
        except launch.RunRefusedError as error:
            return RunState(state="refused", detail=str(error))
        except LeanloopError as error:
            return RunState(state="failed", detail=str(error))
        return RunState(state="released", version=release.version, artifact_digest=release.artifact_digest)
