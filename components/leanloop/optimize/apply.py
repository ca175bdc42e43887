"""Carrying out a recipe: PyTorch techniques, export, the target's files.

What recipes share is made once and kept in the store: ``prefixes/<prefix id>`` holds the shapes and weights after the
PyTorch techniques, ``exports/<prefix id>`` their fp32 ONNX file.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from leanloop.bundle import Bundle
from leanloop.convert import TARGETS, export_onnx, fp32_onnx
from leanloop.core.contracts import Candidate, ModelFiles
from leanloop.core.errors import StoreError
from leanloop.core.files import read_json, write_json
from leanloop.optimize.left_alone import kept_beside
from leanloop.optimize.recipe import Recipe, prefix_id
from leanloop.optimize.techniques import TECHNIQUES, Config, GraphTechnique, TorchTechnique, Workshop
from leanloop.optimize.techniques.base import SHAPES, WEIGHTS, reshape
from leanloop.optimize.techniques.masks import settle_zeros

CHECKPOINT = "checkpoint"
"""Folder of a candidate that `rebuild` reads; absent when no technique changed the PyTorch module."""

_COST = "cost.json"


@dataclass(frozen=True)
class Prefix:
    """A module after the PyTorch techniques of a recipe.

    Attributes:
        module: In eval mode.
        training_seconds: What fine-tuning it cost when it was made.
        seconds_per_sample: Once warm, by the technique that trained.
    """

    module: nn.Module
    training_seconds: float
    seconds_per_sample: dict[str, float]


def make_prefix(configs: Sequence[Config], workshop: Workshop) -> Prefix:
    """Apply PyTorch techniques to a fresh original, or take the stored result."""
    key = _prefix_key(configs, workshop)
    with tempfile.TemporaryDirectory(prefix="leanloop-prefix-") as scratch:
        folder = Path(scratch) / "prefix"
        workshop.store.take_folder(key, folder, lambda empty: _make(configs, workshop, empty))
        return Prefix(_restore(folder, workshop.bundle), **read_json(folder / _COST))


def _make(configs: Sequence[Config], workshop: Workshop, folder: Path) -> None:
    """Apply techniques to a fresh original, or the last one to what the store keeps of those before it."""
    if len(configs) < 2 or not _torch_technique(configs[-1].technique).continues:
        cost = {"training_seconds": 0.0, "seconds_per_sample": {}}
        _apply(configs, workshop, folder, [], workshop.bundle.module(), [], cost)
        return
    *before, last = configs
    earlier = folder / "earlier"
    workshop.store.take_folder(_prefix_key(before, workshop), earlier, lambda empty: _make(before, workshop, empty))
    module, shapes, cost = _restore(earlier, workshop.bundle), read_json(earlier / SHAPES), read_json(earlier / _COST)
    shutil.rmtree(earlier)
    if any(_torch_technique(config.technique).masks for config in before):
        settle_zeros(module)
    _apply([last], workshop, folder, before, module, shapes, cost)


def _prefix_key(configs: Sequence[Config], workshop: Workshop) -> str:
    return f"prefixes/{prefix_id(configs, workshop.bundle.manifest.digest)}"


def make_onnx(configs: Sequence[Config], workshop: Workshop, path: Path) -> None:
    """Write the fp32 ONNX file after some PyTorch techniques, or of the original when there are none."""
    if not configs:
        fp32_onnx(workshop.bundle, path, workshop.store)
        return
    key = f"exports/{prefix_id(configs, workshop.bundle.manifest.digest)}"

    def make(empty: Path) -> None:
        export_onnx(workshop.bundle, make_prefix(configs, workshop).module, empty / path.name)

    workshop.store.take_folder(key, path.parent, make)


def make_files(recipe: Recipe, workshop: Workshop, folder: Path) -> ModelFiles:
    """Carry out a recipe and write the target's files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="leanloop-export-") as scratch:
        onnx = Path(scratch) / "export" / "model.onnx"
        make_onnx(recipe.torch, workshop, onnx)
        if recipe.graph is None:
            return TARGETS[recipe.target].convert(onnx, folder, "fp32")
        technique = TECHNIQUES[recipe.graph.technique]
        assert isinstance(technique, GraphTechnique)
        return technique.apply(onnx, folder, recipe.graph, workshop)


def keep_checkpoint(recipe: Recipe, workshop: Workshop, folder: Path) -> None:
    """Copy the stored prefix of a recipe into a candidate's folder, for `rebuild`."""
    if recipe.torch:
        digest = workshop.bundle.manifest.digest
        workshop.store.get_folder(f"prefixes/{prefix_id(recipe.torch, digest)}", folder / CHECKPOINT)


def rebuild(folder: Path, bundle: Bundle) -> nn.Module:
    """The fp32 PyTorch module of a candidate, before export and quantisation.

    Args:
        folder: The candidate's folder.
        bundle: The original's bundle, which holds the code.

    Raises:
        StoreError: The candidate was made from another bundle.
    """
    candidate = Candidate.load(folder)
    if candidate.bundle_digest != bundle.manifest.digest:
        raise StoreError(
            "A candidate belongs to another bundle.", where=str(folder), value=candidate.bundle_digest[:16]
        )
    checkpoint = folder / CHECKPOINT
    return _restore(checkpoint, bundle) if checkpoint.is_dir() else bundle.module()


def _apply(
    configs: Sequence[Config],
    workshop: Workshop,
    folder: Path,
    before: Sequence[Config],
    module: nn.Module,
    shapes: list[Any],
    cost: dict[str, Any],
) -> None:
    """Apply techniques to a module after those before, and write it with its shapes and what it has cost."""
    for number, config in enumerate(configs, start=1):
        technique = _torch_technique(config.technique)
        if technique.prepare is not None:
            technique.prepare(workshop)
        if technique.trains:
            workshop.bundle.split("train")  # read once, and no part of what this training costs
        started = time.monotonic()
        with kept_beside([*before, *configs[:number]], workshop.bundle.manifest.digest, workshop.store):
            applied = technique.apply(module, config, workshop)
        module = applied.module
        if technique.trains:
            cost["training_seconds"] += time.monotonic() - started
            cost["seconds_per_sample"][technique.name] = applied.seconds_per_sample
        if technique.rebuild is not None:
            shapes.append([technique.name, applied.shapes])
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    safetensors.torch.save_file(state, folder / WEIGHTS)
    write_json(folder / SHAPES, shapes)
    write_json(folder / _COST, cost)


def _restore(folder: Path, bundle: Bundle) -> nn.Module:
    module = reshape(bundle.module(), read_json(folder / SHAPES), bundle)
    module.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    return module.eval()


def _torch_technique(name: str) -> TorchTechnique:
    technique = TECHNIQUES[name]
    assert isinstance(technique, TorchTechnique)
    return technique
