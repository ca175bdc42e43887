"""The launcher: what counts as success, what a failure tells, and what orchestration costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from leanloop.core.contracts import ServingChoice
from leanloop.core.errors import RefusedError
from leanloop.core.events import EVENTS_VARIABLE, step_events
from leanloop.core.files import write_json
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.pipelines.cli.app import app
from leanloop.pipelines.launch import (
    Run,
    RunError,
    RunRefusedError,
    finish,
    new_run,
    orchestration_share,
    spare_cores,
    stop,
)
from leanloop.pipelines.launcher import LocalLauncher, RunProcess
from leanloop.serving import ProcessId
from tests.conftest import Project


def write_events(run: Run, *events: dict[str, Any]) -> None:
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))


def event(time: float, kind: str, step: str = "", **fields: Any) -> dict[str, Any]:
    return {"time": time, "kind": kind, "step": step, **fields}


def test_success_without_a_release_is_a_failure(tmp_path: Path) -> None:
    # Trap C: KFP's runners can report success for a task that failed.
    with pytest.raises(RunError, match="without a release"):
        finish(Run(tmp_path), status=0)


def test_a_failed_step_is_named_with_what_it_said(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_events(
        run,
        event(0, "run_started"),
        event(1, "step_started", "analyze"),
        event(
            2,
            "step_failed",
            "analyze",
            error={"what": "The model answers NaN.", "where": "here", "value": None, "fix": "Look."},
        ),
    )
    with pytest.raises(RunError, match=r"step analyze\. The model answers NaN[\s\S]*Look. Then run again"):
        finish(run, status=1)


def test_a_refusal_is_told_from_a_failure(tmp_path: Path) -> None:
    run = Run(tmp_path)
    error = {"kind": "RefusedError", "what": "Nothing is better.", "where": "", "value": "recent 0.5", "fix": "Wait."}
    write_events(run, event(0, "run_started"), event(2, "step_failed", "revise", error=error))
    with pytest.raises(RunRefusedError, match=r"Step revise refused\. Nothing is better\.[\s\S]*recent 0\.5"):
        finish(run, status=1)


def test_the_kind_of_a_failure_is_in_the_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    monkeypatch.setenv(EVENTS_VARIABLE, str(run.events))
    with pytest.raises(RefusedError), step_events("select"):
        raise RefusedError("Nothing is better.")
    with pytest.raises(RunRefusedError):
        finish(run, status=1)


def test_a_repair_leaves_the_servers_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = ServingChoice(instances=2, threads=1, max_batch_size=8, queue_delay_us=0)
    for cores, left in (({0}, [0]), ({0, 1}, [1]), ({0, 1, 2, 3}, [3]), (set(range(8)), [3, 4, 5, 6, 7])):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        assert spare_cores(choice) == left


def test_orchestration_is_what_no_step_covers_and_parallel_workers_count_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_events(
        run,
        event(0, "run_started"),
        event(1, "step_started", "analyze"),
        event(3, "step_finished", "analyze"),
        event(4, "step_started", "optimize", worker=0),
        event(4, "step_started", "optimize", worker=1),
        event(6, "step_finished", "optimize", worker=0),
        event(9, "step_finished", "optimize", worker=1),
        event(10, "run_finished"),
    )
    assert orchestration_share(run) == (10, pytest.approx(0.3))


def test_a_request_holds_nothing_relative(project: Project) -> None:
    run = new_run(with_absolute_paths(project.settings, project.folder), project.folder)
    request = json.loads(run.request.read_text())
    assert Path(request["project"]).is_absolute()
    assert request["pipeline"] == "optimize"
    assert request["workers"] == [0, 1]
    assert json.loads(request["settings"])["workspace"] == str(project.folder / ".leanloop")


def test_results_are_found_by_step(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step, output in (("deploy", "release"), ("benchmark", "benchmark")):
        (tmp_path / "pipeline" / step / output).mkdir(parents=True)
    write_json(run.outputs, {"release": str(tmp_path / "pipeline/deploy/release")})
    assert run.step_folder("benchmark") == tmp_path / "pipeline/benchmark/benchmark"


def test_stop_ends_the_whole_group(tmp_path: Path) -> None:
    code = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    grandchild = ProcessId.of(int(process.stdout.readline()))
    stop(process)
    # It was asked to end at the same moment; on a busy machine it may come to that later than the leader.
    deadline = time.monotonic() + 10
    while grandchild.find() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_runs_that_their_service_left_behind_end_with_the_stack(project: Project) -> None:
    settings = with_absolute_paths(project.settings, project.folder)
    launcher = LocalLauncher(settings, project.folder)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        ours = ProcessId.of(process.pid)
        folder = Workspace(settings).runs / "left-behind"
        folder.mkdir(parents=True)
        RunProcess(pid=ours.pid, create_time=ours.create_time).save(folder)
        assert launcher.look("left-behind").state == "running"
        params = project.folder / "params.json"
        params.write_text(settings.to_json())
        said = CliRunner().invoke(app, ["down", "--params", str(params)])
        assert "Run left-behind was ended" in said.output
        assert process.poll() is not None
    # To the service that comes next it died: it starts it once more.
    assert launcher.look("left-behind").state == "died"
    assert launcher.end_all() == ()
