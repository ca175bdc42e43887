"""The only step of a re-tuning: other instances and batching for what serves, or another artifact of its run."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leanloop.core.contracts import Artifact, Release
from leanloop.core.errors import RefusedError, StoreError
from leanloop.core.events import emit, progress, step_events
from leanloop.core.files import atomic_folder, write_json
from leanloop.core.releases import ORIGINAL, release_key
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.steps.points import fetch_points, name_points

if TYPE_CHECKING:
    from leanloop.serving import Journal, ModelRepository, Package, Retuned, TritonClient

MEASURED = "retuning.json"


def run(settings: Settings, *, release: Release, concurrency: int, incident: str | None, retuned: Path) -> None:
    """Let the version that serves go on with a choice that is measurably faster under its load.

    Where none is, a finalist of the same run that passed the gate takes over, if that is measurably faster. Like any
    new version it is watched where requests are captured, and rolled back when it disappoints.

    Args:
        settings: The run's settings; ``serving`` names the Triton and the choices to try.
        release: What serves.
        concurrency: Requests under way at the same time, as live traffic has them.
        incident: That led to it; None when a person asked.
        retuned: Folder to write (`Release`, ``retuning.json``).

    Raises:
        RefusedError: Nothing is clearly better; what serves stays as it is.
        ServingError: The server does not answer, or nothing is known of the version's answers.
        StoreError: The store does not hold the release or its finalists any more.
    """
    with step_events("retune"):
        from leanloop.serving import Journal, retune, stack

        workspace = Workspace(settings)
        models, journal = stack.repository(settings.serving, workspace.serving), Journal(workspace.serving)
        point = None
        with stack.connect(settings.serving, workspace.serving) as client:
            try:
                progress(0, 2, "trying other instances and batching")
                found = retune(
                    client,
                    models,
                    journal,
                    settings.serving,
                    release.model,
                    concurrency=concurrency,
                    incident=incident,
                )
            except RefusedError:
                progress(1, 2, "trying the other finalists")
                switched = _switch(settings, release, client, models, journal, concurrency, incident)
                if switched is None:
                    raise
                found, point = switched
        record = _record(release, found, point)
        if point is not None:
            record = record.model_copy(update={"artifact_digest": models.digest(record.model, record.version)})
        workspace.store.put_json(release_key(record), record.model_dump(mode="json"))
        journal.name_release(found.promotion.rollout, release_key(record))
        with atomic_folder(retuned) as folder:
            record.save(folder)
            write_json(folder / MEASURED, found.measured.model_dump(mode="json"))
        emit("released", model=record.model, version=record.version, artifact=record.artifact_id)


def _switch(
    settings: Settings,
    release: Release,
    client: TritonClient,
    models: ModelRepository,
    journal: Journal,
    concurrency: int,
    incident: str | None,
) -> tuple[Retuned, Artifact] | None:
    """Let another finalist of the release's run take over; None when there is none."""
    from leanloop.bundle import Bundle
    from leanloop.convert import baselines
    from leanloop.serving import switch
    from leanloop.steps.baseline import keep_baselines
    from leanloop.steps.deploy import bake_time
    from leanloop.steps.rehearsal import package

    store = Workspace(settings).store
    watched = settings.monitoring.capture_rate > 0
    with tempfile.TemporaryDirectory(prefix="leanloop-points-") as name:
        artifacts = Path(name) / "artifacts"
        points = {point.id: point for point in fetch_points(store, release, artifacts)}
        if not points:
            return None
        if not store.get_folder(f"bundles/{release.bundle_digest}", Path(name) / "bundle"):
            raise StoreError("The store no longer holds this release.", where=store.url, value=release.bundle_digest)
        bundle = Bundle(Path(name) / "bundle")

        def prepare(chosen: Package) -> None:
            if watched:
                made = baselines(bundle, artifacts, (), threads=settings.goal.threads, store=store)
                original = next(one for one in made if one.id == ORIGINAL)
                keep_baselines(settings, bundle, original, points[chosen.artifact_id], artifacts)

        found = switch(
            client,
            models,
            journal,
            settings.serving,
            release.model,
            [package(bundle, point, artifacts, settings) for point in points.values()],
            concurrency=concurrency,
            prepare=prepare,
            incident=incident,
            bake=bake_time(settings) if watched else None,
        )
    chosen = points[found.promotion.versions[found.promotion.version]]
    others = {*points, release.artifact_id} - {chosen.id}
    name_points(store, release.model_copy(update={"artifact_id": chosen.id}), others)
    return found, chosen


def _record(release: Release, found: Retuned, point: Artifact | None) -> Release:
    version, gain = found.promotion.version, float(np.median(found.measured.ratios))
    note = f"re-tuned: {gain:.2f} times the p99 at {found.measured.concurrency} requests at a time"
    changes: dict[str, object] = {
        "version": version,
        "versions": {str(number): artifact for number, artifact in found.promotion.versions.items()},
        "choice": found.choice,
        "served": (*release.served, found.measured.after.model_copy(update={"version": version})),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": note,
    }
    if point is not None:
        assert point.recipe is not None, "a finalist was made by a recipe"
        changes |= {
            "artifact_id": point.id,
            "recipe": point.recipe,
            "runtime": point.model.runtime,
            "precision": point.model.precision,
            "note": f"{note}, by another finalist: {point.recipe.describe()}",
        }
    return release.model_copy(update=changes)
