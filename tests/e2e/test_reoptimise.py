"""A served model whose world changes is repaired by one command, on the labels that came for what it was asked."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from leanloop.bundle import Bundle, correct
from leanloop.core.contracts import BundleManifest, Verdict
from leanloop.core.events import read_events
from leanloop.core.releases import latest_release
from leanloop.core.settings import load_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.pipelines.launch import Run
from leanloop.serving import TritonClient
from tests.e2e.conftest import Owner
from tests.steps.reoptimise_case import ask, brighter

pytestmark = pytest.mark.e2e


def newest_run(owner: Owner) -> Run:
    return Run(max((owner.folder / "workspace/runs").iterdir(), key=lambda folder: folder.stat().st_mtime))


def test_a_changed_world_is_learnt_and_served(digits: Owner, tmp_path: Path) -> None:
    settings = with_absolute_paths(load_settings(digits.folder / "params.yaml"), digits.folder)
    store = Workspace(settings).store
    before = latest_release(store, "digits")
    assert store.get_folder(f"bundles/{before.bundle_digest}", tmp_path / "bundle")
    images, labels = brighter(Bundle(tmp_path / "bundle"))
    ask(settings, images, labels, start=time.time() - 600)

    limits = ("--set", "monitoring.trigger.fresh_labels=200", "--set", "monitoring.trigger.budget_minutes=0.5")
    digits.leanloop("reoptimise", "--minutes", "30", *limits)

    run, release = newest_run(digits), latest_release(store, "digits")
    assert json.loads(run.request.read_text())["pipeline"] == "reoptimize"
    assert release.version > before.version
    assert Verdict.load(run.step_folder("select")).winner == release.artifact_id
    assert BundleManifest.load(run.step_folder("revise")).parent == before.bundle_digest
    events, _ = read_events(run.events)
    assert [event["step"] for event in events if event["kind"] == "step_finished"] == [
        "snapshot",
        "revise",
        "analyze",
        "remake",
        "convert",
        "benchmark",
        "select",
        "deploy",
    ]
    with TritonClient(release.http_url, release.grpc_url) as client:
        served = [client.infer("digits", {"image": images[start : start + 16]}) for start in range(0, 320, 16)]
        old = [
            client.answer("digits", {"image": images[start : start + 16]}, before.version).outputs
            for start in range(0, 320, 16)
        ]
    after, then = (
        sum(correct(part["logits"], labels[16 * i : 16 * i + 16]).sum() for i, part in enumerate(parts)) / 320
        for parts in (served, old)
    )
    assert after > then + 0.5
    assert after > 0.9


def test_a_repair_without_requests_says_so(digits: Owner) -> None:
    done = digits.leanloop("reoptimise", "--minutes", "0", check=False)
    assert done.returncode == 1
    assert "no live samples" in done.stderr
