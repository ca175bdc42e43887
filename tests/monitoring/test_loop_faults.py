"""The loop on a real Triton, when things break: it sees by real inferences, mends what it can, and says what it did."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest

from leanloop.core.launcher import RunRequest, RunState
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.monitoring.act import MOST_REPAIRS
from leanloop.monitoring.database import open_database
from leanloop.monitoring.failures import PAGE_AFTER
from leanloop.monitoring.incidents import Incident
from leanloop.monitoring.loop import Loop
from leanloop.monitoring.prometheus import ActiveAlert
from leanloop.monitoring.view import VersionView
from leanloop.serving import CaptureChoice, ModelRepository, Package, Ports, TritonClient, TritonHome, TritonServer
from tests.serving.conftest import QUERIES, Models, deploy, linear_spec

MODEL = "net"
GOOD = np.ones((1, 4), np.float32)


class Launcher:
    """Writes down what is started; a run ends when it is told to."""

    def __init__(self) -> None:
        self.started: list[RunRequest] = []
        self.states: dict[str, RunState] = {}

    def start(self, request: RunRequest) -> None:
        self.started.append(request)
        self.states[request.id] = RunState(state="running")

    def look(self, run: str) -> RunState:
        return self.states.get(run, RunState(state="absent"))


class World:
    """A workspace with a Triton of its own and the loop over it, which looks when it is told to."""

    def __init__(self, server: TritonServer, settings: Settings, client: TritonClient) -> None:
        self.server, self.settings, self.client = server, settings, client
        self.workspace = Workspace(settings)
        self.repository = ModelRepository(self.workspace.serving / "models")
        self.spec = linear_spec(MODEL)
        self.launcher = Launcher()
        self.loop = Loop(settings, open_database(self.workspace.database_url), self.launcher)
        self.now = time.time()

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 2.0
            self.loop.tick(self.now)

    def look_until(self, seen: Callable[[], bool], *, most: int = 30) -> None:
        for _ in range(most):
            self.look()
            if seen():
                return
            time.sleep(0.2)
        pytest.fail(f"not seen: {self.loop.view.models}, {self.loop.incidents.latest(5)}")

    @property
    def evidence(self) -> dict[str, str]:
        (model,) = self.loop.view.models
        return model.evidence

    def kill_stubs(self) -> None:
        assert self.server.id is not None
        family = psutil.Process(self.server.id.pid).children(recursive=True)
        stubs = [child for child in family if "stub" in child.name()]
        assert stubs
        for stub in stubs:
            stub.kill()

    def answers(self) -> int:
        return self.client.answer(MODEL, {"x": QUERIES}).version


@pytest.fixture
def world(home: TritonHome, tmp_path: Path) -> Iterator[World]:
    ports, others = Ports.free(), Ports.free()
    document = {
        "model": {"name": MODEL, "file": "net.onnx", "inputs": [{"name": "x", "shape": [4]}]},
        "data": {"source": "data.npz"},
        "workspace": str(tmp_path / "workspace"),
        "serving": {
            "http_url": f"127.0.0.1:{ports.http}",
            "grpc_url": f"127.0.0.1:{ports.grpc}",
            "metrics_url": f"127.0.0.1:{ports.metrics}",
        },
        # Nothing listens there: the loop is blind for latency, and pages to its log.
        "monitoring": {"prometheus_url": f"127.0.0.1:{others.http}", "window": 100, "alertmanager_url": ""},
    }
    settings = with_absolute_paths(Settings.model_validate(document), tmp_path)
    folder = Workspace(settings).serving
    repository = ModelRepository(folder / "models")
    (folder / "token").write_text("sesame", encoding="utf-8")
    with (
        TritonServer(home, repository.root, ports, folder, token="sesame") as server,
        TritonClient(server.http_url, server.grpc_url, token="sesame") as client,
    ):
        world = World(server, settings, client)
        yield world
        assert world.loop.view.failures == ()
        assert all(run.incident is None for run in world.launcher.started), "the loop starts nothing here by itself"


def capture_of(world: World) -> CaptureChoice:
    return CaptureChoice(folder=str(world.workspace.capture), rate=1.0, quota_bytes=1 << 20)


def test_a_killed_model_process_is_mended_and_told(world: World, models: Models) -> None:
    deploy(world.client, world.repository, world.spec, [models.linear(1.0), models.linear(2.0)])
    world.look(2)
    assert (world.evidence["requests"], world.loop.incidents.open()) == ("answered", ())
    world.kill_stubs()
    world.look_until(lambda: bool(world.loop.incidents.open()))
    (incident,) = world.loop.incidents.open()
    assert (incident.cause, incident.action) == ("the server is broken", "repair the server")
    world.look_until(lambda: not world.loop.incidents.open())
    assert world.answers() == 2
    (closed,) = world.loop.incidents.latest(1)
    assert (closed.id, closed.state) == (incident.id, "closed")


def test_a_new_release_that_fails_is_rolled_back(world: World, models: Models) -> None:
    good = models.linear(1.0)
    deploy(world.client, world.repository, world.spec, [good, models.linear(2.0)])
    bake = timedelta(hours=1)
    deploy(world.client, world.repository, world.spec, [good, models.linear(3.0)], bake=bake, incident="i")
    world.look()
    assert (world.answers(), world.evidence["promoted"]) == (3, "recently")
    # Its golden answers do not come any more.
    golden = models.linear(4.0, claims=40.0).golden
    world.loop.server.journal.keep_golden(MODEL, 3, golden)
    world.look_until(lambda: world.answers() == 2)
    assert world.loop.server.journal.history(MODEL)[-1].state == "rolled_back"
    (incident,) = [one for one in world.loop.incidents.latest(5) if one.action == "roll back"]
    assert "version 2" in incident.note


def test_a_server_that_is_gone_is_paged_after_some_tries(
    world: World, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    shown = [{"alertname": "RequestsFailing", "model": MODEL, "version": version} for version in ("1", "2")]
    # What Prometheus would show.
    monkeypatch.setattr("leanloop.monitoring.loop.firing_alerts", lambda _: [ActiveAlert(one, now) for one in shown])
    deploy(world.client, world.repository, world.spec, [models.linear(1.0), models.linear(2.0)])
    world.look()
    world.server.stop()
    world.look_until(lambda: [one.state for one in world.loop.incidents.open()] == ["paged"])
    (incident,) = world.loop.incidents.open()
    assert str(MOST_REPAIRS) in incident.note
    (model,) = world.loop.view.models
    assert [(one.id, one.alerts) for one in model.incidents] == [(incident.id, ("RequestsFailing",))]


def test_without_prometheus_the_loop_says_that_it_is_blind(world: World, models: Models) -> None:
    deploy(world.client, world.repository, world.spec, [models.linear(1.0), models.linear(2.0)])
    world.look()
    assert "Prometheus does not answer" in world.loop.view.blind
    assert world.evidence["latency"] == "unknown"
    assert world.loop.incidents.open() == ()


def broken(world: World, packages: list[Package], requests: int) -> Incident:
    """Deploy, and send so many requests of which a quarter is not a number; returns the incident that it leads to."""
    deploy(world.client, world.repository, world.spec, packages, capture=capture_of(world))
    world.look()
    for index in range(requests):
        world.client.infer(MODEL, {"x": np.full_like(GOOD, np.nan) if index % 4 == 0 else GOOD})
    world.look_until(lambda: bool(world.loop.incidents.open()))
    (incident,) = world.loop.incidents.open()
    return incident


def test_captured_values_that_are_no_numbers_freeze_the_capture(world: World, models: Models) -> None:
    incident = broken(world, [models.linear(1.0), models.linear(2.0)], requests=100)
    assert (incident.cause, incident.state) == ("the requests themselves are broken", "paged")
    config = world.repository.config(MODEL)
    assert config is not None
    assert config.capture is None
    assert world.answers() == 2


def test_a_version_that_is_released_again_is_watched_anew(world: World, models: Models) -> None:
    packages = [models.linear(1.0), models.linear(2.0)]
    world.now -= 1_000.0  # the loop's clock never runs ahead of the journal's
    incident = broken(world, packages, requests=150)
    world.look_until(lambda: world.loop.view.models[0].waiting == 50)
    run = world.loop.runs.request(MODEL, "re-optimise", "not begun", incident=incident.id, now=world.now)

    for _ in range(2):
        deploy(world.client, world.repository, world.spec, packages, capture=capture_of(world))
    world.look()
    (closed,) = world.loop.incidents.latest(5)
    assert (closed.id, closed.state, closed.note) == (incident.id, "closed", "version 2 was released again")
    assert (world.loop.runs.entry(run.id).state, world.launcher.started) == ("dropped", [])
    (model,) = world.loop.view.models
    assert (model.version, model.windows, model.waiting, model.evidence["inputs"]) == (2, 0, 0, "unknown")

    for _ in range(60):
        world.client.infer(MODEL, {"x": GOOD})
    world.look_until(lambda: world.loop.view.models[0].waiting == 60)
    # A service that is started again sees the same.
    world.loop = Loop(world.settings, open_database(world.workspace.database_url), world.launcher)
    world.look()
    (model,) = world.loop.view.models
    assert (model.windows, model.waiting, world.loop.incidents.open()) == (0, 60, ())
    for _ in range(40):
        world.client.infer(MODEL, {"x": GOOD})
    world.look_until(lambda: world.loop.view.models[0].windows == 1)
    assert world.evidence["inputs"] == "unknown"  # without a baseline; but not broken


def test_a_full_capture_disk_does_not_touch_the_answers(world: World, models: Models) -> None:
    # A file where the folder should be: nothing can be written.
    world.workspace.capture.parent.mkdir(parents=True, exist_ok=True)
    packages = [models.linear(1.0), models.linear(2.0)]
    deploy(world.client, world.repository, world.spec, packages, capture=capture_of(world))
    for path in world.workspace.capture.iterdir():
        path.unlink()
    world.workspace.capture.rmdir()
    world.workspace.capture.write_text("in the way")
    for _ in range(20):
        assert np.allclose(world.client.infer(MODEL, {"x": QUERIES})["y"], packages[-1].golden.answers[1]["y"])
    world.look(2)
    assert world.evidence["requests"] == "answered"


def test_a_rollout_that_a_crash_interrupted_is_mended_before_the_first_look(world: World, models: Models) -> None:
    good = models.linear(1.0)
    deploy(world.client, world.repository, world.spec, [good, models.linear(2.0)])
    journal, before = world.loop.server.journal, world.repository.config(MODEL)
    assert before is not None
    after = before.model_copy(update={"versions": (1, 2, 3)})
    with journal.begin(MODEL, "half") as rollout:
        rollout = journal.move(rollout, "validated")
        journal.move(rollout, "promoting", "the process dies now", version=3, before=before, after=after)
    world.look()
    assert world.loop.view.models == ()
    for mended in world.loop.server.recover():
        assert mended.did == "undid the promotion"
    world.look()
    (model,) = world.loop.view.models
    assert (model.version, journal.history(MODEL)[-1].state) == (2, "discarded")


def test_a_look_that_fails_for_one_model_keeps_nothing_else_from_being_looked_at(
    world: World, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    other = "other"
    for name in (MODEL, other):
        deploy(world.client, world.repository, linear_spec(name), [models.linear(1.0), models.linear(2.0)])
    world.look()
    assert [model.model for model in world.loop.view.models] == [MODEL, other]

    def asked(name: str) -> tuple[VersionView, ...]:
        return next(model.versions for model in world.loop.view.models if model.model == name)

    rows = world.workspace.rows / f"model={MODEL}/version=2/date=2026-11-22/damaged.parquet"
    journal = next(world.loop.server.journal.root.glob(f"{MODEL}/*/rollout.json"))
    for damaged in (rows, world.repository.folder(MODEL) / "config.pbtxt", journal):
        before = damaged.read_bytes() if damaged.exists() else None
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(b"{")
        answered = asked(other)
        run = world.loop.runs.request(other, "optimise", "by hand", now=world.now)
        world.look(PAGE_AFTER - 1)
        failing = {one.what: one for one in world.loop.view.failures if one.model}
        assert failing.keys() == {MODEL}
        assert (failing[MODEL].looks, failing[MODEL].paged) == (PAGE_AFTER - 1, False)
        assert f"PAGE PersonNeeded: look failed: {MODEL}" not in caplog.text
        world.look()
        assert f"PAGE PersonNeeded: look failed: {MODEL}, {PAGE_AFTER} times in a row" in caplog.text
        assert world.loop.incidents.open() == ()
        assert world.launcher.started[-1] == run
        assert asked(other) != answered
        world.launcher.states[run.id] = RunState(state="failed")
        caplog.clear()
        damaged.unlink() if before is None else damaged.write_bytes(before)
        world.look()
        assert world.loop.view.failures == ()


def test_the_view_survives_as_json(world: World, models: Models) -> None:
    deploy(world.client, world.repository, world.spec, [models.linear(1.0), models.linear(2.0)])
    world.look()
    document = json.loads(world.loop.view.model_dump_json())
    assert document["models"][0]["model"] == MODEL
