"""What was released: records kept in the store, and the artifacts and bundles that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leanloop.core.contracts import Artifact, Release
from leanloop.core.errors import StoreError
from leanloop.core.store import Store

ORIGINAL = "original-onnxruntime-fp32"
"""Artifact that is version 1 of every model: the first champion, and the floor to roll back to."""


def all_releases(store: Store, model: str | None = None) -> Sequence[Release]:
    """Releases of one model, or of every model, oldest first."""
    keys = store.keys(f"releases/{model}" if model else "releases")
    return sorted((Release.model_validate(store.get_json(key)) for key in keys), key=lambda release: release.created)


def latest_release(store: Store, model: str) -> Release:
    """The newest release of a model.

    Raises:
        StoreError: There is none.
    """
    found = all_releases(store, model)
    if not found:
        raise StoreError("The model was never released.", where=store.url, value=model, fix="Run `leanloop run` first.")
    return found[-1]


def release_of(store: Store, model: str, version: int) -> Release | None:
    """The release that made a version, or the first that served it beside its own; None when there is none."""
    found = all_releases(store, model)
    made = [release for release in found if release.version == version]
    beside = [release for release in found if str(version) in release.versions]
    return made[-1] if made else beside[0] if beside else None


def fetch_release(store: Store, release: Release, folder: Path) -> tuple[Path, Artifact, Path]:
    """Bring a release's bundle and artifact into a folder.

    Returns:
        The bundle's folder, the artifact's record, and the folder with its files.

    Raises:
        StoreError: The store does not hold them any more.
    """
    key = f"artifacts/{release.bundle_digest}/{release.artifact_id}"
    record = store.get_json(f"{key}.json")
    bundle, artifact = folder / "bundle", folder / "artifact"
    if not store.get_folder(f"bundles/{release.bundle_digest}", bundle) or not store.get_folder(key, artifact):
        raise StoreError("The store no longer holds this release.", where=store.url, value=release.artifact_id)
    return bundle, Artifact.model_validate(record), artifact


def baseline_key(bundle_digest: str, artifact_id: str) -> str:
    """Where the store keeps what live windows of an artifact are compared with."""
    return f"baselines/{bundle_digest}/{artifact_id}"


def release_key(release: Release) -> str:
    """Where the store keeps a release."""
    return f"releases/{release.model}/{release.created}-{release.version}.json"


def settings_key(model: str) -> str:
    """Where the store keeps the settings that a model was released with last."""
    return f"settings/{model}.json"
