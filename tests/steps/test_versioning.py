"""In a DVC project every snapshot gets a ``.dvc`` file with its digest; elsewhere, and where it fails, runs go on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leanloop.core.events import EVENTS_VARIABLE, read_events
from leanloop.core.files import digest_file
from leanloop.core.loop_contracts import DATA, Snapshot
from leanloop.steps.versioning import version_snapshot

DVC = (sys.executable, "-m", "dvc")


def call(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def take(workspace: Path) -> Path:
    """A snapshot in a run's folder of the workspace."""
    folder = workspace / "runs" / "run" / "snapshot"
    folder.mkdir(parents=True)
    np.savez(folder / DATA, label=np.arange(3.0))
    Snapshot(
        model="digits",
        versions=(2,),
        bundle_digest="b",
        first=0.0,
        last=1_790_000_000.0,
        records=3,
        labelled=3,
        quarantined={},
        sources={"": 3},
        digest=digest_file(folder / DATA),
    ).save(folder)
    return folder


@pytest.fixture(autouse=True)
def dvc_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "global"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A DVC repository whose workspace is kept out of Git and DVC, as leanloop's own is."""
    folder = tmp_path / "project"
    folder.mkdir()
    call("git", "init", "-q", cwd=folder)
    call(*DVC, "init", "-q", cwd=folder)
    for name in (".gitignore", ".dvcignore"):
        (folder / name).write_text(".leanloop\n/scratch\n")
    return folder


def events(tmp_path: Path) -> list[str]:
    return [event["kind"] for event in read_events(tmp_path / "events.jsonl")[0]]


def test_in_a_dvc_project_the_owner_gets_a_file_to_commit(project: Path, tmp_path: Path) -> None:
    snapshot = take(project / ".leanloop")
    tracked = version_snapshot(snapshot, project / ".leanloop")
    assert tracked is not None
    assert tracked.parent == project / "snapshots"
    content = (snapshot / DATA).read_bytes()
    assert f"md5: {hashlib.md5(content).hexdigest()}" in tracked.read_text()
    assert events(tmp_path) == ["snapshot_versioned"]
    # Git sees that file and no data; DVC can bring the data back.
    seen = call("git", "ls-files", "--others", "--exclude-standard", "snapshots", cwd=project).split()
    assert seen == ["snapshots/.gitignore", f"snapshots/{tracked.name}"]
    data = tracked.with_suffix("")
    data.unlink()
    call(*DVC, "checkout", "-q", cwd=project)
    assert data.read_bytes() == content
    # The same snapshot is there already.
    before = tracked.stat().st_mtime_ns
    assert version_snapshot(snapshot, project / ".leanloop") == tracked
    assert tracked.stat().st_mtime_ns == before


def test_elsewhere_nothing_is_written(project: Path, tmp_path: Path) -> None:
    for workspace in (tmp_path / "plain" / "workspace", project / "scratch" / "workspace"):
        assert version_snapshot(take(workspace), workspace) is None
        assert not (workspace.parent / "snapshots").exists()
    assert events(tmp_path) == []


def test_a_failure_is_told_and_does_not_end_the_run(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project / ".dvc/config").write_text("no configuration")
    assert version_snapshot(take(project / ".leanloop"), project / ".leanloop") is None
    assert "not versioned by DVC" in caplog.text
    assert events(tmp_path) == ["snapshot_not_versioned"]
