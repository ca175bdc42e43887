"""An opened bundle: the owner's model, data and metric, as later steps use them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanloop.bundle.data import Arrays, Split, SplitName, read_split, tensors
from leanloop.bundle.files import materialise
from leanloop.bundle.fresh import Mixed, mix, repeated
from leanloop.bundle.likeness import Likeness
from leanloop.bundle.metrics import Metric, make_metric
from leanloop.bundle.owner_code import import_object
from leanloop.core.contracts import BundleManifest
from leanloop.core.errors import BundleError, DataError, UnsupportedError

if TYPE_CHECKING:
    from torch import nn

FORWARD_BATCH = 256


class Bundle:
    """Reads a bundle folder; nothing outside it and the data that it refers to is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.manifest = BundleManifest.load(folder)
        self._splits: dict[str, Mixed] = {}

    @property
    def weights(self) -> Path:
        """The model file."""
        return self.folder / self.manifest.weights

    @property
    def student(self) -> Path:
        """Folder with the small network that was made from the bundle before, in a revision whose parent had one."""
        return self.folder / "student"

    @property
    def has_module(self) -> bool:
        """Whether the original is a PyTorch module (not an ONNX file)."""
        return self.manifest.kind != "onnx"

    @property
    def trainable(self) -> bool:
        """Whether the architecture can be changed and fine-tuned: it has a factory and training data."""
        return self.manifest.kind == "factory" and "train" in self.manifest.splits

    def module(self) -> nn.Module:
        """A fresh copy of the original, in eval mode. Called with the inputs in order.

        Raises:
            UnsupportedError: The original is an ONNX file.
            BundleError: See `leanloop.bundle.models`.
        """
        from leanloop.bundle import models

        match self.manifest.kind:
            case "factory":
                assert self.manifest.factory is not None
                return models.load_factory(self.owner_object(self.manifest.factory), self.weights)
            case "pt2":
                return models.load_pt2(self.weights, trust=self.manifest.trust)
            case "onnx":
                raise UnsupportedError(
                    "The original is an ONNX file; there is no PyTorch module.", where=str(self.weights)
                )

    def owner_object(self, path: str) -> Callable[..., Any]:
        """The owner's ``module:function``, imported from the bundle's code."""
        return import_object(path, self.folder / "code")

    def split(self, name: SplitName) -> Split:
        """A data split, read once.

        Raises:
            DataError: The owner has no such split, or it does not fit the model.
        """
        split = self.find_split(name)
        if split is None:
            raise DataError("The data has no such split.", value=name, fix="Return it from the data source.")
        return split

    def find_split(self, name: SplitName) -> Split | None:
        """A data split, read once; None when the owner has none of this name."""
        return self._read(name).split

    def fresh_rows(self, name: SplitName) -> np.ndarray:
        """Which samples of a split are live ones that a revision brought, booleans [samples].

        Of validation these are the *recent* part, and the others the *golden* one.
        """
        return self._read(name).fresh

    def old_rows(self, name: SplitName) -> np.ndarray:
        """Which samples of a split are neither live ones nor made to look like these, booleans [samples]."""
        mixed = self._read(name)
        old: np.ndarray = ~(mixed.fresh | mixed.alike)
        return old

    def training_rows(self, some: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Places among some rows of the train split (all of them) for one pass of training; live samples come again."""
        return repeated(self.fresh_rows("train")[some], alike=self.manifest.likeness is not None)

    def clean_split(self, name: SplitName) -> Split:
        """A split as a teacher is asked about it: where `split` has a look-alike, the sample that it was made from."""
        self.split(name)
        clean = self._read(name).clean
        assert clean is not None
        return clean

    def owners_split(self, name: SplitName) -> Split | None:
        """The owner's samples alone, without what revisions brought; None when the owner has none of this name."""
        root = materialise(self.manifest.files, self.folder)
        source = self.manifest.data_source
        return read_split(
            name,
            source=self.owner_object(source) if ":" in source else root / source,
            root=root,
            inputs=self.manifest.inputs,
            limit=self.manifest.max_samples.get(name),
        )

    def _read(self, name: SplitName) -> Mixed:
        if name not in self._splits:
            brought = [
                read_split(name, source=self.folder / file, root=self.folder, inputs=self.manifest.inputs)
                for file in self.manifest.fresh
            ]
            *earlier, fresh = brought or [None]
            known = [split for split in earlier if split is not None]
            likeness = self.manifest.likeness
            looks = Likeness.load(self.folder / likeness) if likeness and name == "train" else None
            self._splits[name] = mix(name, self.owners_split(name), fresh, known, looks)
        return self._splits[name]

    @cached_property
    def samples(self) -> Arrays:
        """Sample inputs packed in the bundle: [at least 8, ...] by input name."""
        with np.load(self.folder / "samples.npz", allow_pickle=False) as archive:
            return {spec.name: archive[spec.name] for spec in self.manifest.inputs}

    @cached_property
    def metric(self) -> Metric:
        """The owner's metric."""
        name = self.manifest.metric
        return make_metric(name, self.manifest.task, self.owner_object(name) if ":" in name else None)

    def call(self, module: nn.Module, inputs: Arrays) -> Arrays:
        """Run a module on one batch and name its outputs.

        Raises:
            BundleError: It returns another number of outputs than the settings name.
        """
        import torch

        with torch.inference_mode():
            return self.name_outputs(module(*tensors(inputs)))

    def name_outputs(self, result: Any) -> Arrays:
        """The outputs of a module (a tensor, a tuple, or a dict) as arrays by the settings' names, in order."""
        values = (
            list(result.values())
            if isinstance(result, dict)
            else list(result)
            if isinstance(result, (tuple, list))
            else [result]
        )
        names = self.manifest.outputs
        if len(values) != len(names):
            raise BundleError(
                "The model returns another number of outputs than the settings name.",
                value=len(values),
                fix=f"`model.outputs` names {list(names)}.",
            )
        return {
            name: value.detach().float().numpy() if value.is_floating_point() else value.numpy()
            for name, value in zip(names, values, strict=True)
        }

    def predict(self, module: nn.Module, split: Split) -> Arrays:
        """A module's outputs on a whole split, [samples, ...] by output name."""
        parts = [self.call(module, batch.inputs) for batch in split.batches(FORWARD_BATCH)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.manifest.outputs}

    def score(self, outputs: Arrays, split: Split, reference: Arrays | None = None) -> float:
        """The metric of outputs on a split.

        Args:
            outputs: By output name; the first output counts.
            split: Holds the labels.
            reference: The original's outputs on the same split; what a metric without labels compares with.

        Raises:
            DataError: The metric needs labels and the split has none, or needs a reference and got none.
        """

        def original() -> Arrays:
            if reference is None:
                raise DataError(
                    "The metric compares with the original's outputs, and there are none.", value=self.metric.name
                )
            return reference

        return self.metric.score(outputs[self.manifest.outputs[0]], self.truth(split, original))

    def truth(self, split: Split, original: Callable[[], Arrays]) -> np.ndarray:
        """What the metric compares the first output with: labels, or the original's first output, [samples, ...].

        Args:
            split: Holds the labels.
            original: The original's outputs on the same split; asked by a metric without labels alone.

        Raises:
            DataError: The metric needs labels and the split has none.
        """
        if not self.metric.needs_labels:
            return original()[self.manifest.outputs[0]]
        if split.targets is None:
            raise DataError(
                "The metric needs labels, and the split has none.",
                where=f"split {split.name!r}",
                value=self.metric.name,
                fix="Use `metric: agreement`, which needs none.",
            )
        return split.targets
