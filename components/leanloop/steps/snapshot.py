"""First step of a re-optimisation: what serves now, and what it was asked lately."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from leanloop.core.contracts import Release
from leanloop.core.events import emit, step_events
from leanloop.core.files import atomic_folder
from leanloop.core.loop_contracts import STUDENT, Champion
from leanloop.core.releases import ORIGINAL, fetch_release
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.core.workspace import Workspace
from leanloop.steps.versioning import version_snapshot

if TYPE_CHECKING:
    from leanloop.bundle import Bundle, Split
    from leanloop.monitoring.snapshot import Schema


def run(settings: Settings, *, release: Release, since: float, champion: Path, snapshot: Path) -> None:
    """Bring the release that serves from the store, and take a snapshot of its captured requests and their labels.

    Args:
        settings: The run's settings; the workspace holds the captured rows and the database of labels.
        release: What serves.
        since: Unix time of the oldest request that counts as fresh.
        champion: Folder to write (`Champion`, ``bundle/``, ``artifact/``, and ``student/`` where one was trained).
        snapshot: Folder to write (`Snapshot`, ``data.npz``); in a DVC project its data are versioned, too.

    Raises:
        StoreError: The store does not hold the release any more.
        DataError: Nothing usable was captured.
    """
    with step_events("snapshot"):
        from leanloop.bundle import Bundle
        from leanloop.monitoring.database import open_database
        from leanloop.monitoring.labels import Labels
        from leanloop.monitoring.snapshot import take_snapshot

        workspace = Workspace(settings)
        with atomic_folder(champion) as folder:
            bundle, artifact, _ = fetch_release(workspace.store, release, folder)
            _bring_student(workspace.store, release, folder / STUDENT)
            Champion(release=release, artifact=artifact).save(folder)
        found = take_snapshot(
            workspace.rows,
            Labels(open_database(workspace.database_url)),
            snapshot,
            model=release.model,
            bundle_digest=release.bundle_digest,
            schema=_schema(Bundle(champion / bundle.name)),
            since=since,
        )
        emit("snapshot", records=found.records, labelled=found.labelled, quarantined=found.quarantined)
        version_snapshot(snapshot, workspace.root)


def _bring_student(store: Store, release: Release, folder: Path) -> None:
    """Bring the trained module behind an artifact, where it has one and the store still holds it."""
    from leanloop.optimize.apply import CHECKPOINT

    if release.artifact_id == ORIGINAL:
        return
    with TemporaryDirectory(prefix="leanloop-student-") as scratch:
        candidate = Path(scratch) / "candidate"
        if not store.get_folder(f"candidates/{release.artifact_id}", candidate):
            emit("student_lost", artifact=release.artifact_id, reason="the store does not hold what serves any more")
        elif (candidate / CHECKPOINT).is_dir():
            shutil.copytree(candidate / CHECKPOINT, folder)


def _schema(bundle: Bundle) -> Schema:
    from leanloop.monitoring.snapshot import Schema

    calibration = bundle.split("calibration")
    ranges = {name: (float(values.min()), float(values.max())) for name, values in calibration.inputs.items()}
    return Schema(inputs=bundle.manifest.inputs, ranges=ranges, classes=_classes(bundle, calibration))


def _classes(bundle: Bundle, samples: Split) -> int | None:
    if bundle.manifest.task != "classification":
        return None
    if bundle.manifest.classes:
        return len(bundle.manifest.classes)
    from leanloop.runtime import original_outputs

    answers = original_outputs(bundle, samples.take(slice(0, 2)))[bundle.manifest.outputs[0]]
    return answers.shape[-1] if answers.ndim > 1 and answers.shape[-1] > 1 else 2
