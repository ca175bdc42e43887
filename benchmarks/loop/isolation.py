"""Two models in one stack: the world changes under one of them, and the loop leaves the other alone.

Both are the INT8 version of the shipped CNN under names of their own, on one real Triton, watched by one loop. After
some windows that are as before, the images of the first are rotated. Labels come at once. What the loop would run is
only written down.

    .venv/bin/python benchmarks/loop/isolation.py
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from leanloop.core.contracts import Release
from leanloop.core.files import write_json
from leanloop.core.hardware import hardware_id
from leanloop.core.launcher import RunRequest, RunState
from leanloop.core.names import code_version
from leanloop.core.releases import baseline_key, release_key
from leanloop.core.settings import Settings, load_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.monitoring.database import open_database
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.labels import Label
from leanloop.monitoring.loop import Loop
from leanloop.serving import (
    CaptureChoice,
    Journal,
    ModelRepository,
    Ports,
    TritonClient,
    TritonHome,
    TritonServer,
    promote,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import served, topic

SHIFTED, OTHER = "one", "two"
SHIFT, SEVERITY = "rotation", 4
QUIET_WINDOWS, SHIFTED_WINDOWS = 3, 4
REQUEST_SAMPLES = 25
TICK_SECONDS, MOST_SECONDS = 0.5, 60.0


class WritesDown:
    """A launcher that starts nothing."""

    def __init__(self) -> None:
        self.asked: list[RunRequest] = []

    def start(self, request: RunRequest) -> None:
        self.asked.append(request)

    def look(self, run: str) -> RunState:
        return RunState(state="running" if any(one.id == run for one in self.asked) else "absent")


@dataclass
class World:
    """One Triton with both models, and the loop over it."""

    client: TritonClient
    loop: Loop
    launcher: WritesDown
    size: int

    def windows(self, model: str) -> int:
        """Judged so far."""
        return next((one.windows for one in self.loop.view.models if one.model == model), 0)

    def ask(self, model: str, images: np.ndarray, classes: np.ndarray) -> None:
        """Send a window's images, and tell what they are."""
        labels = []
        for start in range(0, len(images), REQUEST_SAMPLES):
            identity = uuid.uuid4().hex
            self.client.infer(model, {"image": images[start : start + REQUEST_SAMPLES]}, request_id=identity)
            labels += [
                Label(request_id=identity, sample=row, label=int(one))
                for row, one in enumerate(classes[start : start + REQUEST_SAMPLES])
            ]
        self.loop.labels.add(model, labels)

    def look_until_judged(self, windows: int) -> None:
        """Let the loop look until both models' windows are judged, and once more, for labels of the last one."""
        deadline = time.monotonic() + MOST_SECONDS
        while min(self.windows(SHIFTED), self.windows(OTHER)) < windows:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the loop judged {self.windows(SHIFTED)} and {self.windows(OTHER)} windows")
            time.sleep(TICK_SECONDS)
            self.look()
        self.look()

    def look(self) -> None:
        """One look, which must not fail: the loop itself would only tell that it did."""
        view = self.loop.tick(time.time())
        if view.failures:
            raise RuntimeError(f"a look failed: {view.failures}")


def figures(out: Path, seed: int) -> list[Figure]:
    """All figures; the seed draws the images."""
    models = served.make(out)
    clean, classes = served.images()
    rotated, _ = served.images(SHIFT, SEVERITY)
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="leanloop-isolation-") as name, serving(models, Path(name)) as world:
        before = 0
        for window in range(1, QUIET_WINDOWS + SHIFTED_WINDOWS + 1):
            for model in (SHIFTED, OTHER):
                rows = rng.choice(len(classes), world.size, replace=False)
                images = rotated if model == SHIFTED and window > QUIET_WINDOWS else clean
                world.ask(model, images[rows], classes[rows])
            world.look_until_judged(window)
            if window == QUIET_WINDOWS:
                before = len(world.loop.incidents.latest(100))
        incidents = world.loop.incidents.latest(100)
        asked = world.launcher.asked
        views = [one.model_dump(mode="json") for one in world.loop.view.models]
    counts = {model: sum(one.model == model for one in incidents) for model in (SHIFTED, OTHER)}
    runs = {model: sum(one.model == model for one in asked) for model in (SHIFTED, OTHER)}
    write_json(
        out / f"isolation-{seed}.json",
        {"incidents": [asdict(one) for one in incidents], "runs": [one.model_dump() for one in asked], "models": views},
    )
    return [
        Figure("two models: incidents before the shift", before, "incidents", at_most=0),
        Figure("two models: incidents of the one that was shifted", counts[SHIFTED], "incidents", at_least=1),
        Figure("two models: runs asked for it", runs[SHIFTED], "runs", at_least=1),
        Figure("two models: incidents of the other", counts[OTHER], "incidents", at_most=0),
        Figure("two models: runs asked for the other", runs[OTHER], "runs", at_most=0),
    ]


@contextmanager
def serving(models: served.Served, folder: Path) -> Iterator[World]:
    """Both models released, with their baselines, on one Triton that captures everything."""
    ports, others = Ports.free(), Ports.free()
    overrides = {
        "workspace": str(folder / "workspace"),
        "serving.http_url": f"127.0.0.1:{ports.http}",
        "serving.grpc_url": f"127.0.0.1:{ports.grpc}",
        "serving.metrics_url": f"127.0.0.1:{ports.metrics}",
        # Nothing listens there: how fast is asked elsewhere, and nobody is paged.
        "monitoring.prometheus_url": f"127.0.0.1:{others.http}",
        "monitoring.alertmanager_url": "",
    }
    settings = with_absolute_paths(load_settings(topic.ROOT / "params.yaml", overrides), topic.ROOT)
    workspace, launcher = Workspace(settings), WritesDown()
    repository, journal = ModelRepository(workspace.serving / "models"), Journal(workspace.serving)
    capture = CaptureChoice(folder=str(workspace.capture), rate=1.0, quota_bytes=1 << 30)
    baseline = baseline_of(models)
    with (
        TritonServer(TritonHome.find(), repository.root, ports, workspace.serving) as server,
        TritonClient(server.http_url, server.grpc_url) as client,
    ):
        packages = [models.original, models.int8]
        for model in (SHIFTED, OTHER):
            spec = models.spec.model_copy(update={"name": model})
            with journal.begin(model, models.int8.artifact_id) as rollout:
                rollout = journal.move(rollout, "validated")
                done = promote(client, repository, journal, rollout, spec, packages, served.CHOICE, capture)
            keep(settings, models, model, done.version, repository, baseline)
        loop = Loop(settings, open_database(workspace.database_url), launcher)
        yield World(client, loop, launcher, settings.monitoring.window)


def baseline_of(models: served.Served) -> Baseline:
    """As the product makes it: from validation, in random order."""
    split = models.bundle.split("validation")
    split = split.take(np.random.default_rng(0).permutation(len(split)))
    own, parent = (
        served.answers(one.folder, one.files, split.inputs["image"]) for one in (models.int8, models.original)
    )
    return Baseline.fit(split.inputs, own, parent, split.targets, task="classification")


def keep(
    settings: Settings,
    models: served.Served,
    model: str,
    version: int,
    repository: ModelRepository,
    baseline: Baseline,
) -> None:
    """Write the release and its baseline into the store, where the loop looks for them."""
    store, digest, package = Workspace(settings).store, models.bundle.manifest.digest, models.int8
    release = Release(
        model=model,
        version=version,
        artifact_id=package.artifact_id,
        artifact_digest=repository.digest(model, version),
        bundle_digest=digest,
        recipe=None,
        runtime=package.files.runtime,
        precision=package.files.precision,
        versions={"1": models.original.artifact_id, str(version): package.artifact_id},
        choice=served.CHOICE,
        served=(),
        golden_queries=len(package.golden),
        http_url=settings.serving.http_url,
        grpc_url=settings.serving.grpc_url,
        hardware_id=hardware_id(),
        code_version=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note="",
    )
    store.put_json(release_key(release), release.model_dump(mode="json"))
    with tempfile.TemporaryDirectory() as name:
        baseline.save(Path(name))
        store.put_folder(baseline_key(digest, package.artifact_id), Path(name))


if __name__ == "__main__":
    sys.exit(topic.main(figures, __doc__))
