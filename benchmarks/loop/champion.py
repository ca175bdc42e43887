"""The champion that recovery and demo start from: the Fashion-MNIST CNN, released once by the product's own line.

That takes as long as ``make demo-optimize``. The workspace is kept beside the results, so that it is paid for once.
What serves is asked here in this process, from the files that the store keeps of the release.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from leanloop.bundle import Bundle, Split, correct
from leanloop.core.contracts import Artifact, Release
from leanloop.core.files import digest_json
from leanloop.core.hardware import hardware_id
from leanloop.core.names import code_version
from leanloop.core.releases import all_releases, fetch_release
from leanloop.core.settings import Settings, load_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.pipelines.demo.shifts import Shift, shifted
from leanloop.runtime import open_session, predict

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import run_line

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks/out" / digest_json([code_version(), hardware_id()])[:12] / "loop"
"""Where a topic that is run alone keeps its results."""

PARAMS = "params.yaml"
SERVING = {"http_url": "127.0.0.1:18100", "grpc_url": "127.0.0.1:18101", "metrics_url": "127.0.0.1:18102"}
MONITORING = {
    "service_url": "127.0.0.1:18103",
    "prometheus_url": "127.0.0.1:18104",
    "alertmanager_url": "127.0.0.1:18105",
}


def settings(out: Path) -> Settings:
    """Its settings, with absolute paths and ports of its own; it is released now where it was not yet.

    Args:
        out: The results' folder; the workspace is ``champion`` in it.
    """
    workspace = out / "champion"
    overrides = {"workspace": str(workspace)}
    overrides |= {f"serving.{key}": url for key, url in SERVING.items()}
    overrides |= {f"monitoring.{key}": url for key, url in MONITORING.items()}
    found = with_absolute_paths(load_settings(ROOT / PARAMS, overrides), ROOT)
    if not all_releases(Workspace(found).store, found.model.name):
        print("  the champion is made ...", flush=True)
        run_line(workspace, PARAMS, None, SERVING)
    return found


@dataclass(frozen=True)
class Answering:
    """Some files that answer, in this process.

    Attributes:
        bundle: That they were made from.
        artifact: Which files.
        folder: Where they lie.
    """

    bundle: Bundle
    artifact: Artifact
    folder: Path

    def answers(self, images: np.ndarray) -> np.ndarray:
        """The first output, [images, classes]."""
        manifest = self.bundle.manifest
        session = open_session(self.artifact.model, self.folder, threads=1, bundle=self.bundle)
        try:
            return predict(session, Split("asked", {manifest.inputs[0].name: images}, None))[manifest.outputs[0]]
        finally:
            session.close()

    def accuracy(self, images: np.ndarray, classes: np.ndarray) -> float:
        """Share of right answers."""
        return float(correct(self.answers(images), classes).mean())


@dataclass(frozen=True)
class Served:
    """The champion, brought from its store.

    Attributes:
        settings: That it was released with.
        release: Its record.
        files: That answer.
    """

    settings: Settings
    release: Release
    files: Answering

    @classmethod
    def fetch(cls, out: Path, folder: Path) -> Self:
        """Bring it into an empty folder; the first release counts, whatever was promoted after it."""
        found = settings(out)
        store = Workspace(found).store
        release = all_releases(store, found.model.name)[0]
        bundle, artifact, files = fetch_release(store, release, folder)
        return cls(found, release, Answering(Bundle(bundle), artifact, files))

    def samples(self, split: Literal["validation", "test"]) -> tuple[np.ndarray, np.ndarray]:
        """Images as the model takes them, and their classes."""
        bundle = self.files.bundle
        found = bundle.split(split)
        assert found.targets is not None
        return found.inputs[bundle.manifest.inputs[0].name], found.targets


def seen(images: np.ndarray, shift: Shift, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Images as the model takes them, as a camera gives them under a shift."""
    low, high = float(images.min()), float(images.max())
    pixels = (images - low) / (high - low)
    return (low + (high - low) * shifted(pixels, shift, severity, rng)).astype(np.float32)
