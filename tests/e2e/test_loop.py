"""The closed loop on the digits example: real Triton, Prometheus, Alertmanager; nobody helps."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from leanloop.core.contracts import BundleManifest, Verdict
from leanloop.core.events import read_events
from leanloop.core.releases import all_releases
from leanloop.core.settings import load_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.pipelines.launch import Run
from leanloop.serving.journal import Journal
from tests.e2e.conftest import Owner

pytestmark = pytest.mark.e2e

STEPS = ["snapshot", "revise", "analyze", "remake", "convert", "benchmark", "select", "deploy"]


@pytest.fixture
def stack(digits: Owner) -> Iterator[Owner]:
    digits.leanloop("up")
    try:
        yield digits
    finally:
        digits.leanloop("down")
        digits.leanloop("serve", "up")


def test_a_changed_world_is_noticed_understood_and_repaired(stack: Owner) -> None:
    settings = with_absolute_paths(load_settings(stack.folder / "params.yaml"), stack.folder)
    workspace = Workspace(settings)
    before = all_releases(workspace.store, "digits")[-1]

    told = stack.leanloop(
        "demo", "loop", "--shift", "rotation", "--severity", "5", "--rps", "40", "--label-delay", "1"
    ).stdout

    ending = re.search(
        r"Incident (\S+), run (\S+): version (\d+) to (\d+) in .*; (\d+)% of the loss was won back", told
    )
    assert ending is not None, told
    incident, name, first, last, share = ending.groups()
    assert int(share) >= 80
    assert re.search(r"before the shift +\d+ +0 ", told), "a request failed"
    assert re.search(r"during the shift +\d+ +0 ", told), "a request failed"
    assert re.search(r"after the repair +\d+ +0 ", told), "a request failed"

    run = Run(workspace.runs / name)
    events, _ = read_events(run.events)
    assert [event["step"] for event in events if event["kind"] == "step_finished"] == STEPS
    release = run.release()
    assert (release.version, before.version) == (int(last), int(first))
    assert Verdict.load(run.step_folder("select")).winner == release.artifact_id
    assert BundleManifest.load(run.step_folder("revise")).parent == before.bundle_digest

    rollout = Journal(workspace.serving).history("digits")[-1]
    assert (rollout.version, rollout.incident) == (release.version, incident)
    assert rollout.shadow is not None
    assert rollout.shadow.passed

    status = stack.leanloop("status").stdout
    assert re.search(rf"digits +{release.version} +answers", status)
    assert "paged" not in status
