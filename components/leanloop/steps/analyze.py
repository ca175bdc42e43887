"""Step 1: what the model costs, where it is sensitive, and what could help."""

from __future__ import annotations

from pathlib import Path

from leanloop.bundle import Bundle
from leanloop.convert.export import EXPORT_IMPORTS
from leanloop.core.child import Child
from leanloop.core.contracts import Analysis, BundleManifest
from leanloop.core.events import emit, step_events
from leanloop.core.files import atomic_folder, digest_json
from leanloop.core.hardware import hardware_id
from leanloop.core.names import code_version
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace


def run(settings: Settings, *, bundle: Path, analysis: Path) -> None:
    """Analyse a bundle; the same bundle, goal, code and machine are analysed once.

    Args:
        settings: The run's settings.
        bundle: Folder of `leanloop.steps.bundle`.
        analysis: Folder to write (`Analysis`).
    """
    with step_events("analyze"):
        store = Workspace(settings).store
        key = f"analyses/{_key(settings, bundle)}"
        if store.get_folder(key, analysis):
            emit("reused", what="analysis")
            return
        with Child(preload=EXPORT_IMPORTS) as child:
            from leanloop.analyze import analyze

            found = analyze(Bundle(bundle), settings, store, child)
        with atomic_folder(analysis) as folder:
            found.save(folder)
        store.put_folder(key, analysis)


def _key(settings: Settings, bundle: Path) -> str:
    goal = settings.goal.model_dump(mode="json")
    parts = [BundleManifest.load(bundle).digest, goal, settings.targets, code_version(), hardware_id()]
    return digest_json([Analysis.filename, *parts])[:32]
