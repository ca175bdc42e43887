"""Reading a loader, whatever it yields, into the plain arrays of a split."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from leanloop.bundle import Split
from leanloop.core.errors import DataError

Loader = Iterable[Any]
"""A `torch.utils.data.DataLoader`, a `Dataset` with a length, or any iterable of batches.

A batch is ``inputs`` or ``(inputs, targets)``; inputs are one tensor or array, several in the order of the module's
``forward``, or a mapping by its argument names, beside which the mapping may hold ``labels``, ``label`` or ``target``.
"""

_TARGET_KEYS = ("labels", "label", "target", "targets")
_DATASET_BATCH = 256


def input_names(module: nn.Module) -> list[str]:
    """The arguments of ``forward`` that must be given; ``input`` for one that takes ``*args``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    needed = [one.name for one in parameters if one.kind in kinds and one.default is inspect.Parameter.empty]
    return needed or ["input"]


def gather(loader: Loader, names: Sequence[str], split: str) -> Split:
    """All samples of a loader, read once.

    Floats become float32 and whole numbers int64, but uint8 stays.

    Args:
        loader: See `Loader`.
        names: Of the inputs, in the module's order.
        split: Its name, for messages.

    Raises:
        DataError: It yields nothing, or what does not look like batches of these inputs.
    """
    if isinstance(loader, Dataset) and not isinstance(loader, DataLoader):
        loader = DataLoader(loader, batch_size=_DATASET_BATCH)
    inputs: list[list[np.ndarray]] = []
    targets: list[np.ndarray] = []
    for batch in loader:
        values, target = _parts(batch, names, split)
        inputs.append([_array(value, split) for value in values])
        if target is not None:
            targets.append(_array(target, split))
    if not inputs:
        raise DataError("A loader yields no batches.", where=f"the {split} loader")
    if len(targets) not in (0, len(inputs)):
        raise DataError("Some batches have targets and some have none.", where=f"the {split} loader")
    try:
        columns = [np.concatenate(column) for column in zip(*inputs, strict=True)]
        joined = np.concatenate(targets) if targets else None
    except ValueError as error:
        raise DataError("Samples of one loader differ in shape.", where=f"the {split} loader", value=error) from error
    return Split(split, dict(zip(names, columns, strict=True)), joined)


def _parts(batch: Any, names: Sequence[str], split: str) -> tuple[list[Any], Any]:
    """The inputs of a batch in the order of ``names``, and its targets or None."""
    inputs, target = batch, None
    if isinstance(batch, tuple | list):
        if len(batch) == len(names) + 1:
            *inputs, target = batch
        elif len(batch) == 2 and isinstance(batch[0], Mapping | tuple | list):
            inputs, target = batch
        if isinstance(inputs, tuple | list) and len(inputs) == 1 and isinstance(inputs[0], Mapping):
            inputs = inputs[0]
    if isinstance(inputs, Mapping):
        given = inputs
        if target is None:
            target = next((given[key] for key in _TARGET_KEYS if key in given and key not in names), None)
        if missing := [name for name in names if name not in given]:
            raise DataError(
                "A batch lacks inputs of the module.",
                where=f"the {split} loader",
                value=f"{', '.join(missing)}; it has {', '.join(map(str, given))}",
                fix="Name the keys as the arguments of forward.",
            )
        return [given[name] for name in names], target
    values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    if len(values) != len(names):
        raise DataError(
            "A batch does not hold the inputs of the module.",
            where=f"the {split} loader",
            value=f"{len(values)} values, forward takes {', '.join(names)}",
            fix="Yield inputs or (inputs, targets).",
        )
    return values, target


def _array(value: Any, split: str) -> np.ndarray:
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "A batch holds what is no tensor.",
            where=f"the {split} loader",
            value=type(value).__name__,
            fix="Yield tensors or arrays; encode text and images in the loader.",
        ) from error
    if tensor.is_floating_point():
        tensor = tensor.float()
    elif tensor.is_complex():
        raise DataError("A batch holds complex numbers.", where=f"the {split} loader", fix="Give two real inputs.")
    elif tensor.dtype != torch.uint8:
        tensor = tensor.long()
    return tensor.numpy()
