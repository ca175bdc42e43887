"""The real programs under the real supervisor: they come back when they are killed, and all end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from leanloop.core.errors import ServingError
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring import stack
from leanloop.monitoring.prometheus import fingerprint
from leanloop.monitoring.stack.plan import ProgramName
from leanloop.monitoring.stack.supervise import SupervisorState
from leanloop.monitoring.stack.supervisord import connect
from leanloop.pipelines.cli.app import app
from leanloop.serving import StackState
from leanloop.serving import stack as serving_stack
from tests.monitoring.stack.conftest import stack_settings

NAMES: tuple[ProgramName, ...] = ("triton", "alertmanager", "prometheus", "leanloop")

UP = {("triton", "up"), ("leanloop", "up")}


class Running:
    """The stack that the tests of this file share."""

    def __init__(self, folder: Path) -> None:
        self.settings = stack_settings(folder / "workspace", slo={"window_scale": 0.1})
        self.workspace = Workspace(self.settings)
        self.project = folder
        self.params = folder / "params.yaml"
        self.params.write_text(self.settings.to_json())

    def up(self) -> dict[str, stack.ProgramStatus]:
        return {program.name: program for program in stack.up(self.settings, self.project)}

    def programs(self) -> dict[str, stack.ProgramStatus]:
        return {program.name: program for program in stack.programs(self.settings)}

    def triton(self) -> StackState:
        return StackState.load(self.workspace.serving)

    def family(self) -> list[psutil.Process]:
        supervisor = psutil.Process(SupervisorState.load(self.workspace.monitoring / "stack").pid)
        return [supervisor, *supervisor.children(recursive=True)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("stack"))
    try:
        before = serving_stack.up(running.settings.serving, running.workspace.serving)
        running.up()
        # The supervised Triton took over from the one that was there.
        assert before.process.find() is None
        yield running
    finally:
        stack.down(running.settings)
        serving_stack.down(running.workspace.serving)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as response:
        return json.load(response)


def test_every_program_answers_and_knows_the_others(running: Running) -> None:
    programs = running.programs()
    assert tuple(programs) == NAMES
    assert all(program.answers and program.pid and program.restarts == 0 for program in programs.values())
    prometheus = running.settings.monitoring.prometheus_url
    until(lambda: {(t["labels"]["job"], t["health"]) for t in targets(prometheus)} >= UP)
    until(lambda: len(get(prometheus, "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]) == 1)
    (group,) = get(prometheus, "/api/v1/rules")["data"]["groups"]
    assert {rule["name"] for rule in group["rules"] if rule["type"] == "alerting"} == set(stack.ALERT_QUESTIONS)
    token = stack.token_file(running.workspace)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) > 30


def test_an_alert_reaches_the_service(running: Running) -> None:
    alertmanager = running.settings.monitoring.alertmanager_url
    labels = {"alertname": "AccuracyFalling", "model": "m"}
    alert = json.dumps([{"labels": labels}]).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"http://{alertmanager}/api/v2/alerts", alert, headers)).close()
    assert [one["fingerprint"] for one in get(alertmanager, "/api/v2/alerts")] == [fingerprint(labels)]
    until(lambda: told(alertmanager, "notifications_total") == 1)
    assert told(alertmanager, "notifications_failed_total") == 0


def told(alertmanager: str, counter: str) -> float:
    with urllib.request.urlopen(f"http://{alertmanager}/metrics", timeout=5) as response:
        families = text_string_to_metric_families(response.read().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == f"alertmanager_{counter}"]
    return sum(sample.value for sample in samples if sample.labels["integration"] == "webhook")


def targets(prometheus: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(prometheus, "/api/v1/targets")["data"]["activeTargets"]
    return found


def test_up_twice_is_harmless(running: Running) -> None:
    before = {name: program.pid for name, program in running.programs().items()}
    assert {name: program.pid for name, program in running.up().items()} == before


def test_up_starts_again_what_was_stopped(running: Running) -> None:
    state = SupervisorState.load(running.workspace.monitoring / "stack")
    connect(Path(state.socket)).supervisor.stopProcess("alertmanager")
    assert not running.programs()["alertmanager"].answers
    assert running.up()["alertmanager"].answers


def test_other_settings_than_the_running_ones_are_refused(running: Running) -> None:
    slower = running.settings.monitoring.model_copy(update={"tick_seconds": 7.0})
    with pytest.raises(ServingError, match="with other settings"):
        stack.up(running.settings.model_copy(update={"monitoring": slower}), running.project)


def test_the_commands_tell_the_same(running: Running) -> None:
    for command in ("up", "status"):
        said = CliRunner().invoke(app, [command, "--params", str(running.params)], env={"COLUMNS": "120"})
        assert said.exit_code == 0, said.output
        assert said.output.count("answers") == len(NAMES)
        assert all(f"{program.pid} " in said.output for program in running.programs().values())


def test_a_deploy_uses_the_supervised_triton_and_cannot_end_it(running: Running) -> None:
    assert serving_stack.up(running.settings.serving, running.workspace.serving) == running.triton()
    with pytest.raises(ServingError, match="keeps Triton up"):
        serving_stack.down(running.workspace.serving)


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "leanloop"])
def test_a_killed_program_comes_back(running: Running, name: str) -> None:
    before = running.programs()[name]
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: running.programs()[name].restarts == before.restarts + 1)
    until(lambda: running.programs()[name].answers)
    assert running.programs()[name].pid != before.pid


@pytest.mark.parametrize("whom", ["the server", "its keeper"])
def test_a_killed_triton_comes_back(running: Running, whom: str) -> None:
    before = running.triton()
    keeper = running.programs()["triton"].pid
    assert keeper is not None
    os.kill(before.pid if whom == "the server" else keeper, signal.SIGKILL)
    until(lambda: before.process.find() is None)
    # A deploy that comes now waits for it, and starts none of its own.
    after = serving_stack.up(running.settings.serving, running.workspace.serving)
    assert after.pid != before.pid
    until(lambda: running.programs()["triton"].answers)
    assert running.triton() == after
    assert psutil.Process(after.pid).parent() == psutil.Process(running.programs()["triton"].pid)


def test_a_killed_supervisor_takes_its_programs_with_it(running: Running) -> None:
    supervisor, *others = running.family()
    supervisor.kill()
    _, alive = psutil.wait_procs([supervisor, *others], timeout=20)
    assert alive == []
    assert running.programs() == {}
    assert all(program.answers for program in running.up().values())


def test_down_ends_exactly_ours(running: Running) -> None:
    ours = running.family()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        assert stack.down(running.settings)
        left = psutil.wait_procs(ours, timeout=1)[1]
        unharmed = bystander.poll() is None
        bystander.kill()
    assert left == []
    assert unharmed
    assert running.programs() == {}
    assert not stack.down(running.settings)
    said = CliRunner().invoke(app, ["status", "--params", str(running.params)])
    assert said.exit_code == 1
    assert "No stack of this workspace is running" in said.output
    # Nobody keeps Triton up any more: it can be started and ended by hand again.
    serving_stack.up(running.settings.serving, running.workspace.serving)
    assert serving_stack.down(running.workspace.serving)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = stack_settings(tmp_path / "workspace")
    yield settings
    stack.down(settings)


def test_a_port_in_use_is_refused_before_anything_starts(settings: Settings, tmp_path: Path) -> None:
    port = int(settings.monitoring.alertmanager_url.rpartition(":")[2])
    with socket.socket() as one:
        one.bind(("127.0.0.1", port))
        one.listen()
        with pytest.raises(ServingError, match=f"Port {port} is in use") as caught:
            stack.up(settings, tmp_path, ("prometheus", "alertmanager"))
    assert caught.value.where == "monitoring.alertmanager_url"
    assert stack.programs(settings) == ()
    assert not (Workspace(settings).monitoring / "logs").exists()


def test_a_program_that_does_not_come_up_leaves_nothing_running(settings: Settings, tmp_path: Path) -> None:
    data = Workspace(settings).monitoring / "prometheus"
    data.parent.mkdir(parents=True)
    data.write_text("no folder")
    with pytest.raises(ServingError, match="prometheus did not come up") as caught:
        stack.up(settings, tmp_path, ("prometheus", "alertmanager"))
    assert "it ended" in str(caught.value.value)
    assert "not a directory" in str(caught.value.value)
    assert stack.programs(settings) == ()


def test_nothing_runs_in_a_new_workspace(settings: Settings) -> None:
    assert stack.programs(settings) == ()
    assert not stack.down(settings)
