"""The only step of a re-tuning: other instances and batching for the version that serves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from leanloop.core.contracts import Release
from leanloop.core.events import emit, step_events
from leanloop.core.files import atomic_folder, write_json
from leanloop.core.releases import release_key
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace

MEASURED = "retuning.json"


def run(settings: Settings, *, release: Release, concurrency: int, incident: str | None, retuned: Path) -> None:
    """Let the version that serves go on with a choice that is measurably faster under its load.

    Args:
        settings: The run's settings; ``serving`` names the Triton and the choices to try.
        release: What serves.
        concurrency: Requests under way at the same time, as live traffic has them.
        incident: That led to it; None when a person asked.
        retuned: Folder to write (`Release`, ``retuning.json``).

    Raises:
        RefusedError: No choice is clearly better; what serves stays as it is.
        ServingError: The server does not answer, or nothing is known of the version's answers.
    """
    with step_events("retune"):
        from leanloop.serving import Journal, retune, stack

        workspace = Workspace(settings)
        models, journal = stack.repository(settings.serving, workspace.serving), Journal(workspace.serving)
        with stack.connect(settings.serving, workspace.serving) as client:
            found = retune(
                client,
                models,
                journal,
                settings.serving,
                release.model,
                concurrency=concurrency,
                incident=incident,
            )
        gain = float(np.median(found.measured.ratios))
        record = release.model_copy(
            update={
                "choice": found.choice,
                "served": (*release.served, found.measured.after.model_copy(update={"version": release.version})),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "note": f"re-tuned: {gain:.2f} times the p99 at {concurrency} requests at a time",
            }
        )
        workspace.store.put_json(release_key(record), record.model_dump(mode="json"))
        journal.name_release(found.promotion.rollout, release_key(record))
        with atomic_folder(retuned) as folder:
            record.save(folder)
            write_json(folder / MEASURED, found.measured.model_dump(mode="json"))
        emit("released", model=record.model, version=record.version, artifact=record.artifact_id)
