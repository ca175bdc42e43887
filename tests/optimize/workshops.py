"""Bundles of all kinds of networks, made when a test asks for one: the forms of ``kinds.py`` and every example."""

from __future__ import annotations

import fcntl
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from leanloop.bundle import SPLITS, Bundle, pack, seal
from leanloop.core.child import Child
from leanloop.core.errors import TrialError
from leanloop.core.settings import Settings, load_settings
from leanloop.core.store import Store
from leanloop.optimize import TECHNIQUES, Config, Recipe, TorchTechnique, Workshop
from leanloop.optimize.apply import CHECKPOINT, keep_checkpoint, make_prefix
from leanloop.optimize.techniques.distillation import DistillationConfig
from tests.optimize import kinds

ROOT = Path(__file__).parents[2]
DIGITS, OTHERS, TEXT = (ROOT / "examples" / name for name in ("digits", "kinds", "text_encoder"))

FORMS = ("perceptron", "grouped", "branches", "shared", "normalised")
"""Of ``kinds.py`` beside this file, with fresh weights."""

TRAINED = ("depthwise", "vision_transformer", "recurrent", "linear", "wide")
"""Examples whose weights are not shipped: making them takes seconds."""

PARAMS = {
    "digits": DIGITS / "params.yaml",
    "residual_cnn": ROOT / "params.yaml",
    "mlp": ROOT / "examples/fashion_mnist/params-mlp.yaml",
    **{name: OTHERS / f"{name}.yaml" for name in TRAINED},
    "text_encoder": TEXT / "params.yaml",
}
"""Example -> its settings."""

KINDS = (*FORMS, *PARAMS)

FEW = {"train": 256, "calibration": 64, "validation": 128, "test": 128}
"""Samples of the large examples; a contract needs no more."""

SETTINGS: dict[str, dict[str, Any]] = {
    "residual_cnn": {"data.max_samples": FEW, "model.student": "model:narrow_cnn"},
    "mlp": {"data.max_samples": FEW},
    "text_encoder": {"data.max_samples": {"calibration": 20, "validation": 32, "test": 16}, "metric": "cosine"},
}
"""What is set otherwise than in an example's own settings."""


class Workshops:
    """A workshop of each kind; what is made once serves all test processes of a session.

    Args:
        folder: Where they are made; the same in all processes.
        child: The process to probe bundles in.
    """

    def __init__(self, folder: Path, child: Child) -> None:
        self._folder, self._child = folder, child
        self._opened: dict[str, Workshop] = {}

    def of(self, kind: str) -> Workshop:
        """The workshop of a kind's plain bundle."""
        return self._open(kind, partial(self._make, kind))

    def with_student(self, kind: str) -> Workshop:
        """The workshop of a revised bundle, with fresh samples and a student that can go on learning.

        Where nothing is trained, it is the plain bundle's: no revision of it has a student.
        """
        plain = self.of(kind)
        return self._open(f"{kind}-revised", partial(self._revise, plain)) if plain.bundle.trainable else plain

    def _open(self, name: str, make: Callable[[Path], None]) -> Workshop:
        if name not in self._opened:
            folder = self._folder / name
            with self._locked(name):
                if not (folder / "bundle").is_dir():
                    folder.mkdir(exist_ok=True)
                    make(folder)
            self._opened[name] = Workshop(Bundle(folder / "bundle"), Store(str(folder / "store")), threads=1)
        return self._opened[name]

    def _make(self, kind: str, folder: Path) -> None:
        if kind in FORMS:
            settings, project = _form(kind, folder), DIGITS
        else:
            settings, project = load_settings(PARAMS[kind], self._weights(kind)), PARAMS[kind].parent
        pack(settings, project, folder / "bundle", self._child)

    def _weights(self, example: str) -> dict[str, Any]:
        """How an example's settings find its weights, which are made or fetched as it says."""
        overrides = {"metric": "agreement", **SETTINGS.get(example, {})}
        if example in TRAINED:
            trained = self._folder / "trained"
            with self._locked("training"):
                if not trained.is_dir():
                    unfinished = self._folder / "unfinished"
                    unfinished.mkdir(exist_ok=True)
                    command: list[str | Path] = [sys.executable, OTHERS / "train.py", *TRAINED, "--out", unfinished]
                    subprocess.run(command, check=True)
                    unfinished.rename(trained)
            overrides["model.file"] = str(trained / f"{example}.safetensors")
        elif example == "text_encoder":
            subprocess.run([sys.executable, TEXT / "fetch.py"], check=True)
        return overrides

    def _revise(self, plain: Workshop, folder: Path) -> None:
        revised, parent = folder / "unfinished", plain.bundle
        shutil.copytree(parent.folder, revised, ignore=shutil.ignore_patterns("__pycache__"))
        student = Recipe("onnxruntime", (*_milder(plain), *training(plain)))
        make_prefix(student.torch, plain)
        keep_checkpoint(student, plain, revised)
        (revised / CHECKPOINT).rename(Bundle(revised).student)
        fresh = parent.split("test").take(slice(0, 64))
        arrays = {f"{split}/{key}": values for split in SPLITS[:3] for key, values in fresh.inputs.items()}
        assert fresh.targets is not None
        arrays |= {f"{split}/target": fresh.targets for split in SPLITS[:3]}
        np.savez(revised / "fresh-1.npz", allow_pickle=False, **arrays)
        update = {"parent": parent.manifest.digest, "fresh": ("fresh-1.npz",), "splits": {}, "digest": ""}
        seal(revised, parent.manifest.model_copy(update=update), self._child)
        revised.rename(folder / "bundle")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _form(form: str, folder: Path) -> Settings:
    torch.manual_seed(0)
    module = getattr(importlib.import_module(kinds.__name__), form)()
    safetensors.torch.save_file(module.state_dict(), folder / "weights.safetensors")
    return load_settings(
        DIGITS / "params.yaml",
        {
            "model.file": str(folder / "weights.safetensors"),
            "model.factory": f"kinds:{form}",
            "model.code": [str(Path(kinds.__file__)), str(DIGITS / "data.py")],
            "metric": "agreement",
        },
    )


def _milder(workshop: Workshop) -> tuple[Config, ...]:
    """How a student's shapes are made: half of the channels where they can be taken out."""
    choices = TECHNIQUES["channel_pruning"].choices(workshop.bundle, 1.0)
    half = choices[len(choices) // 2]
    try:
        make_prefix((half,), workshop)
    except TrialError:
        return ()
    return (half,)


def training(workshop: Workshop) -> tuple[Config, ...]:
    """A handful of steps of distillation."""
    return (brief(TECHNIQUES["distillation"].choices(workshop.bundle, 1.0)[0], workshop.bundle),)


def brief(config: Config, bundle: Bundle) -> Config:
    """A config with a handful of steps of training; itself where it does not train."""
    technique = TECHNIQUES[config.technique]
    if not isinstance(technique, TorchTechnique) or technique.shorten is None:
        return config
    short = technique.shorten(config, bundle)
    return replace(short, epochs=1) if isinstance(short, DistillationConfig) else short
