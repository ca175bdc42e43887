"""The shipped Fashion-MNIST CNN as Triton serves it: the original, and a plain INT8 version of it; and its images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leanloop.bundle import Bundle, pack
from leanloop.convert import check_parity
from leanloop.convert.export import fp32_onnx
from leanloop.convert.onnxruntime import onnx_model_files
from leanloop.core.contracts import Artifact, Artifacts, ModelFiles, RecipeRecord, ServingChoice
from leanloop.core.files import atomic_folder
from leanloop.core.releases import ORIGINAL
from leanloop.core.settings import Settings, load_settings
from leanloop.core.store import Store
from leanloop.optimize import Recipe, Workshop, make_files
from leanloop.pipelines.demo.shifts import Shift, shifted
from leanloop.runtime import open_session
from leanloop.serving import ModelSpec, Package
from leanloop.steps.rehearsal import package, served_spec

sys.path.insert(0, str(Path(__file__).parents[2] / "examples/fashion_mnist"))
import data

ROOT = Path(__file__).parents[2]

INT8 = "plain-int8"
_RECIPE = RecipeRecord(target="onnxruntime", techniques=({"technique": "ort_static_int8", "per_channel": True},))

CHOICE = ServingChoice(instances=1, threads=1, max_batch_size=64, queue_delay_us=0)


@dataclass(frozen=True)
class Served:
    """One model in two versions.

    Attributes:
        settings: Of the shipped example.
        bundle: The model as its owner brought it.
        spec: Name and tensors as served; give it another name to serve it twice.
        original: fp32.
        int8: Static, per channel, without any search.
    """

    settings: Settings
    bundle: Bundle
    spec: ModelSpec
    original: Package
    int8: Package

    def batch(self, size: int) -> dict[str, np.ndarray]:
        """The first validation images."""
        return {name: values[:size] for name, values in self.bundle.split("validation").inputs.items()}


def make(out: Path) -> Served:
    """Both versions, made now or kept from an earlier call with the same folder."""
    folder, settings = out / "served", load_settings(ROOT / "params.yaml")
    if not (folder / "bundle").exists():
        pack(settings, ROOT, folder / "bundle")
    bundle = Bundle(folder / "bundle")
    if not (folder / "artifacts").exists():
        with atomic_folder(folder / "artifacts") as artifacts:
            _make(bundle, artifacts, Store(str(folder / "store")))
    found = Artifacts.load(folder / "artifacts").artifacts
    original, int8 = (package(bundle, artifact, folder / "artifacts", settings) for artifact in found)
    return Served(settings, bundle, served_spec(bundle, original), original, int8)


def _make(bundle: Bundle, folder: Path, store: Store) -> None:
    fp32_onnx(bundle, folder / ORIGINAL / "model.onnx")
    files = {
        ORIGINAL: onnx_model_files(folder / ORIGINAL / "model.onnx", "fp32"),
        INT8: make_files(Recipe.from_record(_RECIPE), Workshop(bundle, store, threads=1), folder / INT8),
    }
    Artifacts(
        bundle_digest=bundle.manifest.digest,
        artifacts=tuple(
            Artifact(
                id=name,
                baseline=name == ORIGINAL,
                recipe=None if name == ORIGINAL else _RECIPE,
                model=model,
                parity=check_parity(bundle, model, folder / name, threads=1),
            )
            for name, model in files.items()
        ),
        rejected={},
        left_out={},
        trials=(),
    ).save(folder)


def answers(folder: Path, model: ModelFiles, images: np.ndarray) -> np.ndarray:
    """Logits of normalised images, [samples, classes], computed in this process."""
    session = open_session(model, folder, threads=CHOICE.threads)
    try:
        parts = [session.run({"image": part}) for part in np.array_split(images, max(1, len(images) // 250))]
    finally:
        session.close()
    return np.concatenate([next(iter(part.values())) for part in parts])


def images(shift: Shift = "none", severity: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Normalised test images after a shift, [10,000, 1, 28, 28], and their true classes."""
    tensors = data.load("test", ROOT / ".tools/debian/usr/share/datasets/fashion-mnist").tensors
    pixels = shifted(tensors[0].numpy() * data.STD + data.MEAN, shift, severity, np.random.default_rng(0))
    return normalised(pixels), tensors[1].numpy()


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] as the model takes them."""
    return ((pixels - data.MEAN) / data.STD).astype(np.float32)
