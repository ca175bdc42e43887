"""The loop on real servers where no labels come, and where one server answers for two models.

The digits model is served as INT8 on a real Triton beside its fp32 original, without Prometheus and Alertmanager. The
runs that the loop asks for are written down, not carried out: whole repairs are told in `test_digits`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from leanloop.convert import baselines
from leanloop.core.contracts import Release
from leanloop.core.launcher import RunRequest, RunState
from leanloop.core.releases import ORIGINAL, fetch_release, release_key
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.database import open_database
from leanloop.monitoring.incidents import Incident
from leanloop.monitoring.loop import Loop
from leanloop.monitoring.view import ModelView
from leanloop.optimize.recipe import Recipe
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config
from leanloop.pipelines.demo.shifts import shifted
from leanloop.serving import (
    CaptureChoice,
    ModelRepository,
    Package,
    Ports,
    TritonClient,
    TritonHome,
    TritonServer,
    retuning,
)
from leanloop.serving.process import locked
from leanloop.steps import retune
from leanloop.steps.baseline import keep_baselines
from leanloop.steps.points import name_points
from leanloop.steps.rehearsal import package, served_spec
from tests.serving.conftest import deploy
from tests.steps.reoptimise_case import Served, serve

pytestmark = pytest.mark.e2e

MODEL, TWIN = "digits", "digits-twin"
WINDOW, BATCH = 100, 8
HORIZON_MINUTES = 10.0


@dataclass(frozen=True)
class Made:
    """The release, made once: its original and its INT8 file are packed for Triton, baselines are in the store."""

    served: Served
    packages: tuple[Package, Package]
    images: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    served = serve(folder / "workspace", Recipe("onnxruntime", (OrtStaticInt8Config(),)))
    store, artifacts = Workspace(served.settings).store, folder / "artifacts"
    original = next(one for one in baselines(served.bundle, artifacts, (), store=store) if one.id == ORIGINAL)
    _, champion, files = fetch_release(store, served.release, folder / "fetched")
    shutil.copytree(files, artifacts / champion.id)
    keep_baselines(served.settings, served.bundle, original, champion, artifacts)
    first, second = (package(served.bundle, one, artifacts, served.settings) for one in (original, champion))
    return Made(served, (first, second), served.bundle.split("test").inputs["image"])


class Launcher:
    """Writes down what it is asked; a run never ends."""

    def __init__(self) -> None:
        self.asked: dict[str, RunRequest] = {}

    def start(self, request: RunRequest) -> None:
        self.asked[request.id] = request

    def look(self, run: str) -> RunState:
        return RunState(state="running" if run in self.asked else "absent")


class World:
    """Models on a Triton of their own, requests without labels, and the loop, which looks when it is told to."""

    def __init__(self, made: Made, settings: Settings, client: TritonClient) -> None:
        self._made, self.settings, self.client = made, settings, client
        self._workspace = Workspace(settings)
        self.repository = ModelRepository(self._workspace.serving / "models")
        self.launcher = Launcher()
        self.loop = Loop(settings, open_database(self._workspace.database_url), self.launcher)
        self.now = time.time()
        self._rng = np.random.default_rng(0)

    def release(self, model: str = MODEL, champion: Package | None = None, bake: timedelta | None = None) -> Release:
        """Let the release serve under a name, or another champion as if it were the release."""
        original, usual = self._made.packages
        champion = champion or usual
        capture = CaptureChoice(folder=str(self._workspace.capture), rate=1.0, quota_bytes=1 << 26)
        spec = served_spec(self._made.served.bundle, original).model_copy(update={"name": model})
        deploy(self.client, self.repository, spec, (original, champion), capture=capture, bake=bake)
        changes = {"model": model, "artifact_id": champion.artifact_id}
        release = self._made.served.release.model_copy(update=changes)
        self._workspace.store.put_json(release_key(release), release.model_dump(mode="json"))
        return release

    def ask(self, model: str, change: Callable[[np.ndarray], np.ndarray] | None = None, *, windows: int) -> None:
        """Send windows of test images, as they are or changed."""
        rows = np.concatenate([self._rng.permutation(len(self._made.images))[:WINDOW] for _ in range(windows)])
        images = self._made.images[rows]
        images = images if change is None else change(images).astype(np.float32)
        self.client.predict(model, {"image": images}, BATCH)

    def look(self) -> None:
        self.now += 2.0
        assert self.loop.tick(self.now).failures == ()

    def look_until(self, seen: Callable[[], bool]) -> None:
        for _ in range(40):
            self.look()
            if seen():
                return
            time.sleep(0.2)
        pytest.fail(f"not seen: {self.loop.view.models}, {self.loop.incidents.latest(5)}")

    def view(self, model: str = MODEL) -> ModelView:
        return next(one for one in self.loop.view.models if one.model == model)

    def judged(self, windows: int, *models: str) -> None:
        """Look until so many windows of each model were judged."""
        self.look()
        self.look_until(lambda: all(self.view(model).windows >= windows for model in models or (MODEL,)))

    def incident(self, model: str = MODEL) -> Incident:
        (found,) = self.loop.incidents.open(model)
        return found


@pytest.fixture
def world(made: Made, tmp_path: Path) -> Iterator[World]:
    ports, others = Ports.free(), Ports.free()
    shutil.copytree(made.served.settings.store.url, tmp_path / "store")
    changes = {
        "workspace": str(tmp_path / "workspace"),
        "store": made.served.settings.store.model_copy(update={"url": str(tmp_path / "store")}),
        "serving": made.served.settings.serving.model_copy(
            update={
                "http_url": f"127.0.0.1:{ports.http}",
                "grpc_url": f"127.0.0.1:{ports.grpc}",
                "metrics_url": f"127.0.0.1:{ports.metrics}",
                "repository": str(tmp_path / "workspace" / "serving" / "models"),
            }
        ),
        "monitoring": made.served.settings.monitoring.model_copy(
            update={
                "capture_rate": 1.0,
                "window": WINDOW,
                "parent_samples": WINDOW,
                "prometheus_url": f"127.0.0.1:{others.http}",
                "alertmanager_url": "",
                "trigger": made.served.settings.monitoring.trigger.model_copy(
                    update={"label_horizon_minutes": HORIZON_MINUTES}
                ),
            }
        ),
    }
    settings = made.served.settings.model_copy(update=changes)
    folder = Workspace(settings).serving
    repository = ModelRepository(folder / "models")
    (folder / "token").write_text("sesame", encoding="utf-8")
    with (
        TritonServer(TritonHome.find(), repository.root, ports, folder, token="sesame") as server,
        TritonClient(server.http_url, server.grpc_url, token="sesame") as client,
    ):
        yield World(made, settings, client)


def turned(images: np.ndarray) -> np.ndarray:
    """As the demo's rotation of severity 5 turns them: parent and release are unsure alike."""
    return shifted(images, "rotation", 5, np.random.default_rng(0))


def overexposed(images: np.ndarray) -> np.ndarray:
    """Brighter by a third of the range, and not cut off: what the INT8 file was not calibrated for, it clips."""
    return images + 0.3


def test_without_labels_compression_that_hurts_now_is_seen_and_repaired(world: World) -> None:
    world.release()
    world.ask(MODEL, windows=3)
    world.judged(3)
    assert (world.view().diagnosis, world.view().evidence["agreement"]) == ("nothing is wrong", "ok")
    world.ask(MODEL, overexposed, windows=3)
    world.look_until(lambda: bool(world.launcher.asked))
    evidence = world.view().evidence
    assert (evidence["accuracy"], evidence["agreement"]) == ("unknown", "falling")
    assert world.incident().cause == "compression hurts on what is asked now"
    (run,) = world.launcher.asked.values()
    assert (run.kind, run.incident, run.model) == ("re-optimise", world.incident().id, MODEL)


def test_without_labels_lost_confidence_is_seen_and_repaired_when_none_can_come_any_more(world: World) -> None:
    world.release()
    world.ask(MODEL, windows=3)
    world.judged(3)
    shift = time.time()
    world.ask(MODEL, turned, windows=3)
    world.judged(6)
    evidence = world.view().evidence
    assert (evidence["inputs"], evidence["labels"], evidence["estimate"]) == ("drifting", "pending", "falling")
    assert (evidence["accuracy"], evidence["agreement"]) == ("unknown", "ok")
    assert (world.incident().action, world.launcher.asked) == ("wait for labels", {})
    world.now += HORIZON_MINUTES * 60
    world.look()
    world.look()
    assert world.incident().cause == "the world has changed, and the model is less sure; no labels will come"
    (run,) = world.launcher.asked.values()
    assert (run.kind, run.incident) == ("re-optimise", world.incident().id)
    assert run.since == pytest.approx(shift, abs=10)


def test_of_two_models_on_one_server_an_incident_of_one_leaves_the_other_alone(world: World) -> None:
    for model in (MODEL, TWIN):
        world.release(model)
        world.ask(model, windows=3)
    world.judged(3, MODEL, TWIN)
    before = world.repository.config(MODEL)

    for model, change in ((MODEL, None), (TWIN, overexposed)):
        world.ask(model, change, windows=3)
    world.judged(6, MODEL, TWIN)
    world.look_until(lambda: bool(world.launcher.asked))
    (run,) = world.launcher.asked.values()
    assert (run.model, run.incident) == (TWIN, world.incident(TWIN).id)
    assert world.view(MODEL).diagnosis == "nothing is wrong"

    # While the twin's run is under way its requests break: that is paged, and no more of them are kept.
    world.ask(TWIN, lambda images: np.full_like(images, np.nan), windows=1)
    world.ask(MODEL, windows=1)
    world.look_until(lambda: any(one.state == "paged" for one in world.loop.incidents.open(TWIN)))
    twin = world.repository.config(TWIN)
    assert twin is not None
    assert twin.capture is None

    world.judged(7, MODEL)
    assert world.view(MODEL).diagnosis == "nothing is wrong"
    assert world.loop.incidents.latest(10, MODEL) == ()
    assert world.loop.runs.entries(MODEL) == ()
    assert world.repository.config(MODEL) == before


def slowed(package: Package, folder: Path) -> Package:
    """The same model, which also looks at millions of numbers, for nothing."""
    folder.mkdir()
    model = onnx.load(package.folder / package.files.main)
    for node in model.graph.node:
        node.output[:] = ["raw" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([8_000_000]), "millions"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
            helper.make_node("Expand", ["sum", "millions"], ["many"]),
            helper.make_node("ReduceMin", ["many"], ["least"], keepdims=0),
            helper.make_node("Sub", ["least", "sum"], ["nothing"]),
            helper.make_node("Add", ["raw", "nothing"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "model.onnx")
    files = package.files.model_copy(update={"main": "model.onnx", "files": ("model.onnx",)})
    return replace(package, artifact_id="slow", files=files, folder=folder)


def test_a_release_that_is_too_slow_gives_way_to_another_finalist_which_is_watched(
    world: World, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retuning, "_LOOK_SECONDS", 0.3)
    original, finalist = made.packages
    release = world.release(champion=slowed(original, tmp_path / "slow"))
    name_points(Workspace(world.settings).store, release, [finalist.artifact_id])
    world.look()
    assert (world.view().version, world.view().expected_accuracy) == (2, None)

    retune.run(world.settings, release=release, concurrency=2, incident="slow", retuned=tmp_path / "retuned")
    found = Release.load(tmp_path / "retuned")
    assert (found.version, found.artifact_id, found.precision) == (3, finalist.artifact_id, "int8")
    world.look()
    assert (world.view().version, world.view().evidence["promoted"]) == (3, "recently")
    # Its baseline was made before it served: its first window can be judged.
    assert world.view().expected_accuracy is not None
    world.loop.server.roll_back(MODEL, "it disappoints", None)
    world.look()
    assert world.view().version == 2


def test_a_server_that_is_just_starting_is_not_laid_at_the_new_releases_door(world: World, made: Made) -> None:
    world.release()
    world.release(champion=replace(made.packages[1], artifact_id="newer"), bake=timedelta(hours=1))
    world.look()
    assert (world.view().version, world.view().evidence["promoted"]) == (3, "recently")
    with locked(Workspace(world.settings).serving):  # as while Triton starts, and loads one model after another
        world.client.unload(MODEL)
        for _ in range(4):
            world.look()
        assert world.loop.incidents.open() == ()
        world.client.load(MODEL)
    world.look()
    assert (world.view().version, world.loop.incidents.open()) == (3, ())
    # At any other time it is the new release's fault.
    world.client.unload(MODEL)
    world.look_until(lambda: world.view().version == 2)
