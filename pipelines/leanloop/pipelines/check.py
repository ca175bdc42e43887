"""What `leanloop check` looks at: settings, machine, model and data, before anything is trained."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from leanloop.core.contracts import BundleManifest
from leanloop.core.errors import ServingError, StoreError
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace

_NEEDED_DISK_BYTES = 1 << 30


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
    check_machine(settings)
    from leanloop.steps import bundle

    with tempfile.TemporaryDirectory(prefix="leanloop-check-") as folder:
        packed = Path(folder) / "bundle"
        bundle.run(settings, project=project, bundle=packed)
        return BundleManifest.load(packed)


def check_machine(settings: Settings) -> Settings:
    """Check disk and Triton, in a second: the bundle step, which comes first in a run, checks all else.

    Args:
        settings: With absolute paths.

    Returns:
        The settings with Triton's environment filled in, since steps run in other folders than ours.

    Raises:
        StoreError: The disk is nearly full.
        ServingError: Triton is not installed, a port is taken, or no Triton answers.
    """
    _check_disk(settings)
    home = _check_serving(settings)
    serving = settings.serving.model_copy(update={"triton_home": home})
    return settings.model_copy(update={"serving": serving})


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


def _check_serving(settings: Settings) -> str:
    from leanloop.serving import TritonHome, stack
    from leanloop.serving.triton import is_live

    home = settings.serving.triton_home
    if settings.serving.autostart:
        home = str(TritonHome.find(home).folder)
        if not stack.status(settings.serving, Workspace(settings).serving).live:
            stack.ports(settings.serving).check_free()
    elif not is_live(settings.serving.http_url):
        raise ServingError(
            "No Triton answers, and none is to be started here.",
            where="serving.http_url",
            value=settings.serving.http_url,
            fix="Start it, correct the address, or set serving.autostart to true.",
        )
    return home
