"""What `leanloop check` looks at: settings, model, data and machine, before anything is trained."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from leanloop.core.contracts import BundleManifest
from leanloop.core.errors import ServingError, SettingsError, StoreError, UnsupportedError
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace

_NEEDED_DISK_BYTES = 1 << 30
_SMALLEST_MODEL_BYTES = 256


def check(settings: Settings, project: Path) -> BundleManifest:
    """Validate everything that a run needs; takes seconds.

    Args:
        settings: With absolute paths.
        project: Folder of params.yaml.

    Returns:
        What was found in the owner's model and data.

    Raises:
        LeanloopError: The first thing that is wrong.
    """
    _check_techniques(settings)
    _check_targets(settings)
    _check_disk(settings)
    _check_serving(settings)
    from leanloop.bundle import pack

    with tempfile.TemporaryDirectory(prefix="leanloop-check-") as folder:
        manifest = pack(settings, project, Path(folder) / "bundle")
    _check_constraints(settings, manifest)
    return manifest


def _check_techniques(settings: Settings) -> None:
    from leanloop.optimize import TECHNIQUES

    for name in settings.optimize.techniques:
        TECHNIQUES[name]


def _check_targets(settings: Settings) -> None:
    from leanloop.convert import TARGETS

    for name in settings.targets:
        reason = TARGETS[name].can_convert()
        if reason is not None:
            raise UnsupportedError("A target cannot be converted to here.", where=f"targets: {name}", value=reason)


def _check_disk(settings: Settings) -> None:
    workspace = Path(settings.workspace)
    existing = next(folder for folder in (workspace, *workspace.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < _NEEDED_DISK_BYTES:
        raise StoreError(
            "The workspace's disk is nearly full.",
            where=str(workspace),
            value=f"{free >> 20} MiB free, a run needs {_NEEDED_DISK_BYTES >> 20}",
            fix="Free some space, or set `workspace` to another disk.",
        )


def _check_serving(settings: Settings) -> None:
    from leanloop.serving import TritonHome, stack
    from leanloop.serving.triton import is_live

    if settings.serving.autostart:
        TritonHome.find(settings.serving.triton_home)
        if not stack.status(settings.serving, Workspace(settings).serving).live:
            stack.ports(settings.serving).check_free()
    elif not is_live(settings.serving.http_url):
        raise ServingError(
            "No Triton answers, and none is to be started here.",
            where="serving.http_url",
            value=settings.serving.http_url,
            fix="Start it, correct the address, or set serving.autostart to true.",
        )


def _check_constraints(settings: Settings, manifest: BundleManifest) -> None:
    goal = settings.goal
    smallest = manifest.weights_bytes // 5 if not _can_shrink(settings, manifest) else _SMALLEST_MODEL_BYTES
    if goal.max_size_bytes is not None and goal.max_size_bytes < smallest:
        raise SettingsError(
            "The size asked for is out of reach.",
            where="goal.max_size_bytes",
            value=goal.max_size_bytes,
            fix=f"The weights have {manifest.weights_bytes} bytes; with the allowed techniques nothing can be smaller "
            f"than about {smallest}.",
        )


def _can_shrink(settings: Settings, manifest: BundleManifest) -> bool:
    # INT8 alone stores a byte per weight of four; only a smaller architecture goes below that.
    prunes = {"channel_pruning", "distillation"} <= set(settings.optimize.techniques)
    return prunes and manifest.kind == "factory" and "train" in manifest.splits
