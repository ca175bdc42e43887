"""Step 2: one worker of the search; several share a study."""

from __future__ import annotations

from pathlib import Path

from leanloop.core.contracts import Analysis
from leanloop.core.events import step_events
from leanloop.core.files import atomic_folder
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace


def run(settings: Settings, *, bundle: Path, analysis: Path, candidates: Path, worker: int) -> None:
    """Search recipes until the budget is spent.

    Args:
        settings: The run's settings; ``optimize.storage`` names the study that the workers share.
        bundle: Folder of `leanloop.steps.bundle`.
        analysis: Folder of `leanloop.steps.analyze`.
        candidates: Folder to write (`Candidates`).
        worker: Number of this worker, from 0.
    """
    with step_events("optimize", worker):
        from leanloop.bundle import Bundle
        from leanloop.optimize import left_alone, search_worker

        with atomic_folder(candidates) as folder:
            with left_alone.hearing() as heard:
                made = search_worker(Bundle(bundle), Analysis.load(analysis), settings, folder, worker)
            left_alone.told(made, heard, Workspace(settings).store).save(folder)
