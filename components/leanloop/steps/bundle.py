"""Step 0: pack what the owner brings."""

from __future__ import annotations

from pathlib import Path

from leanloop.core.child import Child
from leanloop.core.events import emit, step_events
from leanloop.core.settings import Settings


def run(settings: Settings, *, project: Path, bundle: Path) -> None:
    """Pack the owner's model, code, samples and data references.

    Args:
        settings: The run's settings.
        project: Folder that the settings' relative paths start from; only this step reads it.
        bundle: Folder to write (`BundleManifest`).

    Raises:
        LeanloopError: What the owner brought does not fit, or nothing can come of it; before any work starts.
    """
    with step_events("bundle"):
        with Child(preload=("torch", "leanloop.bundle.probe")) as child:
            from leanloop.bundle import pack
            from leanloop.optimize import check_feasible

            manifest = pack(settings, project, bundle, child)
            check_feasible(settings, manifest)
        emit("bundled", digest=manifest.digest, weights_bytes=manifest.weights_bytes)
