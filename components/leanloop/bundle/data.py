"""The owner's data: four splits, from a function, a ``.npz`` or a ``.parquet`` file, as plain arrays.

A split is read whole into memory once; every step then works on numpy arrays, so that shapes and types are checked in
one place and no data loader's randomness or worker processes come between a model and its measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from leanloop.core.errors import DataError
from leanloop.core.settings import InputSpec

if TYPE_CHECKING:
    import torch

SplitName = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Samples by input name (axis 0 counts samples), and their targets where there are labels."""

    name: str
    inputs: Arrays
    targets: np.ndarray | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: slice | np.ndarray) -> Split:
        """A split of some rows only."""
        targets = None if self.targets is None else self.targets[rows]
        return Split(self.name, {name: values[rows] for name, values in self.inputs.items()}, targets)

    def batches(self, batch_size: int) -> Iterator[Split]:
        """Consecutive pieces of ``batch_size`` samples; the last may be shorter."""
        for start in range(0, len(self), batch_size):
            yield self.take(slice(start, start + batch_size))


def read_split(
    name: SplitName,
    *,
    source: Path | Callable[[str, Path], Any],
    root: Path,
    inputs: Sequence[InputSpec],
    limit: int | None = None,
) -> Split | None:
    """Read one split.

    Args:
        name: Which split.
        source: The owner's function ``(split, root) -> torch Dataset or None``, or a ``.npz`` or ``.parquet`` file.
            A ``.npz`` holds arrays ``<split>/<input>`` and ``<split>/target``; a ``.parquet`` holds columns ``split``,
            one per input, and ``target``.
        root: Folder with the files that the function reads.
        inputs: What the model takes.
        limit: Read at most so many samples, from the start.

    Returns:
        The split, checked against ``inputs``; None when the owner has none of this name.

    Raises:
        DataError: The source fails, or shapes, types or lengths are not what the model takes.
    """
    if callable(source):
        split = _from_function(name, source, root, inputs)
    elif source.suffix == ".npz":
        split = _from_npz(name, source, inputs)
    else:
        split = _from_parquet(name, source, inputs)
    if split is None:
        return None
    if limit is not None:
        split = split.take(slice(0, limit))
    _check(split, inputs)
    return split


def _from_function(
    name: str, function: Callable[[str, Path], Any], root: Path, inputs: Sequence[InputSpec]
) -> Split | None:
    from torch.utils.data import Dataset, TensorDataset

    where = f"data function, split {name!r}"
    try:
        dataset = function(name, root)
    except Exception as error:
        raise DataError("The data function failed.", where=where, value=f"{type(error).__name__}: {error}") from error
    if dataset is None:
        return None
    if not isinstance(dataset, Dataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            "The data function must return a torch Dataset with a length, or None for a split that is not there.",
            where=where,
            value=type(dataset).__name__,
        )
    if len(dataset) == 0:
        raise DataError("A split is empty.", where=where, fix="Return None for a split that is not there.")
    names = [spec.name for spec in inputs]
    if isinstance(dataset, TensorDataset) and len(names) <= len(dataset.tensors) <= len(names) + 1:
        columns = [tensor.numpy() for tensor in dataset.tensors]
        targets = columns.pop() if len(columns) > len(names) else None
        return Split(name, dict(zip(names, columns, strict=True)), targets)
    rows = [_row(dataset[index], names, where) for index in range(len(dataset))]
    arrays = {key: np.stack([row[0][key] for row in rows]) for key in names}
    labels = [target for _, target in rows if target is not None]
    if len(labels) not in (0, len(rows)):
        raise DataError("Some samples of a split have a target and some have none.", where=where)
    return Split(name, arrays, np.stack(labels) if labels else None)


def _row(item: Any, names: list[str], where: str) -> tuple[Arrays, np.ndarray | None]:
    sample, target = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    values = sample if isinstance(sample, dict) else {names[0]: sample}
    if set(values) != set(names):
        raise DataError(
            "A sample does not hold the model's inputs.",
            where=where,
            value=sorted(values),
            fix=f"Return (inputs, target) with inputs {names}: a tensor for one input, a dict for several.",
        )
    return {key: np.asarray(value) for key, value in values.items()}, None if target is None else np.asarray(target)


def _from_npz(name: str, file: Path, inputs: Sequence[InputSpec]) -> Split | None:
    try:
        with np.load(file, allow_pickle=False) as archive:
            if not any(key.startswith(f"{name}/") for key in archive.files):
                return None
            arrays = {spec.name: archive[f"{name}/{spec.name}"] for spec in inputs}
            targets = archive[f"{name}/target"] if f"{name}/target" in archive.files else None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "The .npz file cannot be read, or lacks an input.",
            where=str(file),
            value=error,
            fix="It must hold arrays <split>/<input> and <split>/target.",
        ) from error
    return Split(name, arrays, targets)


def _from_parquet(name: str, file: Path, inputs: Sequence[InputSpec]) -> Split | None:
    import pandas as pd

    try:
        frame = pd.read_parquet(file)
        rows = frame[frame["split"] == name]
        if rows.empty:
            return None
        arrays = {
            spec.name: np.array(rows[spec.name].tolist(), dtype=spec.dtype).reshape(len(rows), *spec.shape)
            for spec in inputs
        }
        targets = rows["target"].to_numpy() if "target" in rows else None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "The .parquet file cannot be read, or lacks a column.",
            where=str(file),
            value=error,
            fix="It must hold the columns split, one per input, and target.",
        ) from error
    return Split(name, arrays, targets)


def _check(split: Split, inputs: Sequence[InputSpec]) -> None:
    for spec in inputs:
        values = split.inputs[spec.name]
        where = f"split {split.name!r}, input {spec.name!r}"
        if len(values) == 0:
            raise DataError("A split is empty.", where=where)
        if values.shape[1:] != spec.shape:
            raise DataError(
                "The data has another shape than the model's input.",
                where=where,
                value=values.shape[1:],
                fix=f"`model.inputs` says {spec.shape} (without the batch axis).",
            )
        if values.dtype != np.dtype(spec.dtype):
            raise DataError(
                "The data has another type than the model's input.",
                where=where,
                value=str(values.dtype),
                fix=f"`model.inputs` says {spec.dtype}.",
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError("The data holds NaN or infinite values.", where=where)
        if len(values) != len(split):
            raise DataError("The inputs have different numbers of samples.", where=where, value=len(values))
    if split.targets is not None and len(split.targets) != len(split):
        raise DataError(
            "There are not as many targets as samples.", where=f"split {split.name!r}", value=len(split.targets)
        )


def tensors(inputs: Arrays) -> tuple[torch.Tensor, ...]:
    """The inputs as torch tensors that share their memory, in the model's order."""
    import torch

    return tuple(torch.from_numpy(values) for values in inputs.values())
