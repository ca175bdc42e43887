"""Snapshots under DVC: where the workspace lies in a DVC repository, each one gets a ``.dvc`` file with its digest.

The workspace is usually kept out of Git, and a ``.dvc`` file in it would be of no use to anybody. So it lies beside the
workspace, in ``snapshots/``, and the data go to DVC's cache. What is committed and pushed is for the owner to decide.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from leanloop.core.events import emit
from leanloop.core.loop_contracts import DATA, Snapshot

FOLDER = "snapshots"
"""Beside the workspace."""

_MOST_SECONDS = 120.0

log = logging.getLogger(__name__)


def version_snapshot(snapshot: Path, workspace: Path) -> Path | None:
    """Add a snapshot's data to the DVC repository that the workspace lies in.

    No repair depends on it: what goes wrong is told in the log and in the run's events, and the run goes on.

    Args:
        snapshot: Folder of a `leanloop.core.loop_contracts.Snapshot`.
        workspace: The workspace's folder.

    Returns:
        The ``.dvc`` file; None where there is no such repository, where Git ignores that place, or where it failed.
    """
    root = next((folder for folder in workspace.parents if (folder / ".dvc").is_dir()), None)
    if root is None:
        return None
    record = Snapshot.load(snapshot)
    newest = datetime.fromtimestamp(record.last, UTC)
    data = workspace.parent / FOLDER / f"{record.model}-{newest:%Y%m%d-%H%M%S}-{record.digest[:8]}.npz"
    tracked = data.with_name(f"{data.name}.dvc")
    if tracked.exists():
        return tracked  # the same records gave the same snapshot before
    if _is_ignored(tracked, root):
        return None
    failure = _add(snapshot / DATA, data, root)
    if failure:
        log.warning("the snapshot is not versioned by DVC: %s", failure)
        emit("snapshot_not_versioned", reason=failure)
        return None
    emit("snapshot_versioned", file=str(tracked))
    return tracked


def _add(source: Path, data: Path, root: Path) -> str:
    """Why it failed; empty when it did not."""
    data.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "dvc", "add", "--quiet", "--force", "--out", str(data), str(source)]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"dvc add took longer than {_MOST_SECONDS:g} s"
    return (done.stderr.strip() or f"dvc add ended with {done.returncode}") if done.returncode else ""


def _is_ignored(path: Path, root: Path) -> bool:
    """Whether Git is told to leave a file out; False where there is no Git."""
    try:
        return subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=root, check=False).returncode == 0
    except FileNotFoundError:
        return False
