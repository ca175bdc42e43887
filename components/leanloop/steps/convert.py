"""Step 3: finish the finalists of all workers and check them, and the original's baselines, against the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leanloop.core.events import step_events
from leanloop.core.files import atomic_folder
from leanloop.core.settings import Settings


def run(settings: Settings, *, bundle: Path, candidates: Sequence[Path], artifacts: Path) -> None:
    """Choose the finalists, convert and parity-check.

    Args:
        settings: The run's settings.
        bundle: Folder of `leanloop.steps.bundle`.
        candidates: One folder of `leanloop.steps.optimize` per worker.
        artifacts: Folder to write (`Artifacts`).
    """
    with step_events("convert"):
        from leanloop.bundle import Bundle
        from leanloop.optimize import finish_finalists

        with atomic_folder(artifacts) as folder:
            finish_finalists(Bundle(bundle), candidates, settings, folder).save(folder)
