"""The other Pareto points of a release: finalists of its run that passed the gate, too, kept for a re-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from leanloop.core.contracts import Artifact, Artifacts, Release, Verdict
from leanloop.core.errors import StoreError
from leanloop.core.store import Store


def keep_artifact(store: Store, bundle_digest: str, artifact: Artifact, files: Path) -> None:
    """Keep an artifact as `leanloop.core.releases.fetch_release` finds it.

    Args:
        store: Of the workspace.
        bundle_digest: Of the bundle that it was made from.
        artifact: Its record.
        files: Folder of its files.
    """
    key = f"artifacts/{bundle_digest}/{artifact.id}"
    store.put_folder(key, files)
    store.put_json(f"{key}.json", artifact.model_dump(mode="json"))


def keep_points(store: Store, release: Release, verdict: Verdict, found: Artifacts, artifacts: Path) -> None:
    """Keep all that could serve instead of a release: no baseline, and not the champion that it took over from.

    Args:
        store: Of the workspace.
        release: What serves.
        verdict: Tells who passed the gate.
        found: All variants of the run.
        artifacts: Folder of `leanloop.steps.convert`.
    """
    former = None if found.challenge is None else found.challenge.champion
    right = {one.id for one in verdict.variants if one.feasible} - {former, release.artifact_id}
    points = [one for one in found.artifacts if one.id in right and not one.baseline]
    for point in points:
        keep_artifact(store, release.bundle_digest, point, artifacts / point.id)
    name_points(store, release, (point.id for point in points))


def name_points(store: Store, release: Release, points: Iterable[str]) -> None:
    """Write down which kept artifacts could serve instead of a release, by id."""
    store.put_json(_key(release), {"schema_version": 1, "artifacts": sorted(points)})


def fetch_points(store: Store, release: Release, folder: Path) -> tuple[Artifact, ...]:
    """Bring the files of all that could serve instead of a release, each into a folder of its name.

    Raises:
        StoreError: The store does not hold one of them any more.
    """
    document = store.get_json(_key(release))
    identities = [] if document is None else document["artifacts"]
    return tuple(_fetch(store, release.bundle_digest, identity, folder / identity) for identity in identities)


def _fetch(store: Store, bundle_digest: str, identity: str, folder: Path) -> Artifact:
    key = f"artifacts/{bundle_digest}/{identity}"
    if not store.get_folder(key, folder):
        raise StoreError("The store no longer holds this artifact.", where=store.url, value=identity)
    return Artifact.model_validate(store.get_json(f"{key}.json"))


def _key(release: Release) -> str:
    return f"points/{release.bundle_digest}/{release.artifact_id}.json"
