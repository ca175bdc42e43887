"""The shipped examples: their splits, and that the shipped weights are as good as their records say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from leanloop.core.settings import load_settings

ROOT = Path(__file__).parents[2]
FASHION = ROOT / "examples" / "fashion_mnist"
DIGITS = ROOT / "examples" / "digits"
IMAGES = ROOT / ".tools" / "debian" / "usr" / "share" / "datasets" / "fashion-mnist"

MODELS = [
    pytest.param(FASHION, "residual_cnn", "residual_cnn", 0.925, id="residual_cnn"),
    pytest.param(FASHION, "mlp", "mlp", 0.88, id="mlp"),
    pytest.param(DIGITS, "digits_net", "digits", 0.98, id="digits"),
]
"""Folder, factory, base name of the weights, least accuracy on the test split."""

SPLITS = [
    pytest.param(
        FASHION, {"train": 54_000, "calibration": 1_000, "validation": 5_000, "test": 10_000}, id="fashion_mnist"
    ),
    pytest.param(DIGITS, {"train": 1_100, "calibration": 100, "validation": 250, "test": 347}, id="digits"),
]


def module(folder: Path, name: str) -> ModuleType:
    """An example's module, under a name of its own: both examples have a ``model`` and a ``data``."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def split_of(folder: Path, name: str) -> TensorDataset:
    if folder == FASHION:
        assert IMAGES.is_dir(), f"{IMAGES} is missing: run `make setup`"
    dataset: TensorDataset = module(folder, "data").load(name, IMAGES)
    return dataset


def record_of(folder: Path, weights: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"{weights}.json").read_text(encoding="utf-8"))
    return record


@pytest.mark.parametrize(("folder", "sizes"), SPLITS)
def test_splits_have_their_sizes_and_share_no_image(folder: Path, sizes: dict[str, int]) -> None:
    seen: set[bytes] = set()
    repeated_within = 0
    for name, size in sizes.items():
        images, labels = split_of(folder, name).tensors
        assert len(images) == len(labels) == size
        digests = {image.tobytes() for image in images.numpy()}
        repeated_within += size - len(digests)
        shared = len(seen & digests)
        # Fashion-MNIST repeats a handful of its photographs; a split drawn twice would share hundreds.
        assert shared <= 20, f"{name} shares {shared} images with the splits before it"
        seen |= digests
    assert repeated_within <= 20


@pytest.mark.parametrize(("folder", "sizes"), SPLITS)
def test_splits_are_the_same_every_time(folder: Path, sizes: dict[str, int]) -> None:
    for name in ("calibration", "validation"):
        first, again = split_of(folder, name), split_of(folder, name)
        assert all(torch.equal(*pair) for pair in zip(first.tensors, again.tensors, strict=True))


def test_samples_are_float_images_and_whole_labels_of_ten_classes() -> None:
    for folder, side in ((FASHION, 28), (DIGITS, 8)):
        dataset = split_of(folder, "calibration")
        image, label = dataset[0]
        assert image.shape == (1, side, side)
        assert image.dtype == torch.float32
        assert label.dtype == torch.int64
        assert set(np.unique(dataset.tensors[1])) == set(range(10))


def test_fashion_mnist_is_normalised() -> None:
    images = split_of(FASHION, "validation").tensors[0]
    assert abs(images.mean().item()) < 0.02
    assert abs(images.std().item() - 1) < 0.02


@pytest.mark.parametrize("folder", [FASHION, DIGITS], ids=lambda folder: folder.name)
def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="'training' is not one of"):
        split_of(folder, "training")


@pytest.mark.parametrize(("folder", "factory", "weights", "least"), MODELS)
def test_shipped_weights_reach_their_accuracy(folder: Path, factory: str, weights: str, least: float) -> None:
    network = getattr(module(folder, "model"), factory)()
    network.load_state_dict(load_file(folder / f"{weights}.safetensors"), strict=True)
    network.eval()
    images, labels = split_of(folder, "test").tensors
    with torch.inference_mode():
        predicted = torch.cat([network(batch).argmax(1) for batch in images.split(500)])
    accuracy = (predicted == labels).double().mean().item()
    assert accuracy >= least
    assert accuracy == pytest.approx(record_of(folder, weights)["test_accuracy"], abs=5e-4)


@pytest.mark.parametrize(("folder", "factory", "weights", "least"), MODELS)
def test_records_count_the_parameters(folder: Path, factory: str, weights: str, least: float) -> None:
    network = getattr(module(folder, "model"), factory)()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert record_of(folder, weights)["parameters"] == parameters


@pytest.mark.parametrize(
    "params",
    [
        "params.yaml",
        "examples/fashion_mnist/params-mlp.yaml",
        "examples/digits/params.yaml",
        "examples/digits/params-loop.yaml",
    ],
)
def test_params_are_valid_and_every_file_is_there(params: str) -> None:
    settings = load_settings(ROOT / params)
    folder = (ROOT / params).parent
    for file in (settings.model.file, *settings.model.code, *settings.data.files):
        assert (folder / file).exists(), file
    assert len(settings.model.classes) == 10
