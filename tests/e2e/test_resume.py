"""A run killed in the middle of its search goes on where it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from leanloop.core.events import read_events
from leanloop.pipelines.launch import Run
from tests.e2e.conftest import ROOT, Owner, digits_document, new_owner

pytestmark = pytest.mark.e2e


def newest(owner: Owner) -> Run:
    return Run(max((owner.folder / "workspace/runs").iterdir(), key=lambda path: path.stat().st_mtime))


def finished_trials(run: Run) -> dict[int, dict[str, Any]]:
    events, _ = read_events(run.events)
    return {event["trial"]: event for event in events if event["kind"] == "trial_finished"}


def test_a_killed_run_resumes_without_repeating_a_trial(tmp_path: Path) -> None:
    owner = new_owner(tmp_path / "owner")
    for name in ("model.py", "data.py", "digits.safetensors"):
        shutil.copy(ROOT / "examples/digits" / name, owner.folder)
    document: dict[str, Any] = digits_document(owner.ports)
    document["optimize"] |= {"budget_minutes": 0.8}
    owner.write(document)
    command = [sys.executable, "-m", "leanloop.pipelines", "run", "-p", str(owner.folder / "params.yaml")]
    environment = {**os.environ, "LEANLOOP_TRITON_HOME": str(ROOT / ".tools/triton")}
    try:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not ((owner.folder / "workspace/runs").exists() and finished_trials(newest(owner))):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            if psutil.pid_exists(child.pid):
                child.send_signal(signal.SIGKILL)
        process.wait()
        killed = newest(owner)
        before = finished_trials(killed)
        assert not killed.outputs.exists()

        owner.leanloop("run")
        resumed = newest(owner)
        assert resumed.folder != killed.folder
        assert resumed.release().version in (1, 2)
        events, _ = read_events(resumed.events)
        started = {event["trial"] for event in events if event["kind"] == "trial_started"}
        assert before
        assert started.isdisjoint(before)
    finally:
        owner.leanloop("serve", "down", check=False)
