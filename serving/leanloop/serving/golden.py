"""Golden queries: real samples with the answers that a served version must give.

A runtime may choose other kernels for another batch size, and an integer model then rounds otherwise. So answers are
kept per batch size: asked for in batches of exactly that size, a server must give them almost bit for bit. Beside live
traffic Triton may batch a query with others', and only a rough comparison is right.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from leanloop.core.errors import ServingError, StoreError
from leanloop.core.files import atomic_file
from leanloop.serving.client import Arrays, TritonClient, internal_id, on_the_wire

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Golden:
    """Queries and answers, the sample on axis 0 of every array.

    Attributes:
        inputs: By name.
        answers: By batch size, then by output name: what the artifact gave in-process for batches of exactly that
            size. The samples are repeated from the first one until the last batch is full; see `queries`.
        tolerance: How far any element may be off at the same batch size, as a share of the output's largest one.
        rough_tolerance: The same where the batch size is not known or has no answers of its own.
    """

    inputs: Arrays
    answers: Mapping[int, Arrays]
    tolerance: float
    rough_tolerance: float

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @classmethod
    def ask(
        cls,
        run: Callable[[Arrays], Arrays],
        inputs: Arrays,
        batch_sizes: Sequence[int],
        *,
        tolerance: float,
        rough_tolerance: float,
    ) -> Self:
        """Golden queries with the answers that ``run`` gives, for each batch size.

        Args:
            run: All outputs of one batch, by name.
            inputs: The samples.
            batch_sizes: Sizes that the served model is compiled for.
            tolerance: See the class.
            rough_tolerance: See the class.
        """
        answers: dict[int, Arrays] = {}
        for size in sorted({1, *batch_sizes}):
            queries = cls(inputs, {}, 0.0, 0.0).queries(size)
            parts = [run(batch) for batch in _batches(queries, size)]
            answers[size] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cls(inputs, answers, tolerance, rough_tolerance)

    @property
    def outputs(self) -> Arrays:
        """One answer per sample, by output name."""
        return {name: values[: len(self)] for name, values in self.answers[min(self.answers)].items()}

    def queries(self, batch_size: int) -> Arrays:
        """The samples, repeated from the first one until they fill whole batches of this size."""
        rows = np.arange(-(-len(self) // batch_size) * batch_size) % len(self)
        return {name: values[rows] for name, values in self.inputs.items()}

    def save(self, path: Path) -> None:
        """Write one ``.npz``, atomically."""
        arrays: dict[str, Any] = {f"inputs/{name}": values for name, values in self.inputs.items()}
        for size, outputs in self.answers.items():
            arrays |= {f"answers/{size}/{name}": values for name, values in outputs.items()}
        limits = np.array([self.tolerance, self.rough_tolerance])
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, schema_version=_SCHEMA_VERSION, tolerances=limits, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: It is missing, or is not such a file.
        """
        inputs: dict[str, npt.NDArray[Any]] = {}
        answers: dict[int, dict[str, npt.NDArray[Any]]] = {}
        try:
            with np.load(path, allow_pickle=False) as file:
                if int(file["schema_version"]) != _SCHEMA_VERSION:
                    raise ValueError(f"schema version {file['schema_version']}, not {_SCHEMA_VERSION}")
                tolerance, rough_tolerance = map(float, file["tolerances"])
                for key in file.files:
                    kind, _, rest = key.partition("/")
                    if kind == "inputs":
                        inputs[rest] = file[key]
                    elif kind == "answers":
                        size, _, name = rest.partition("/")
                        answers.setdefault(int(size), {})[name] = file[key]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StoreError(
                "Golden queries cannot be read.",
                where=str(path),
                value=error,
                fix="Deploy the model again: `leanloop run`.",
            ) from error
        return cls(inputs, answers, tolerance, rough_tolerance)


def check_golden(
    client: TritonClient, model: str, golden: Golden, *, batch_size: int, version: int | None = None
) -> None:
    """Ask a server that nobody else asks: closely at the batch sizes that have answers, roughly at the largest batch.

    Args:
        client: Of the server.
        model: Name of the model.
        golden: What to ask.
        batch_size: The largest that the server takes.
        version: Which one; None is the one that answers unversioned requests.

    Raises:
        ServingError: An answer is missing, of another shape, or too far off.
    """
    where = _where(model, version)
    for size, expected in golden.answers.items():
        found = client.predict(model, golden.queries(size), size, version, internal=True)
        _compare_all(found, expected, _allowed(golden, golden.tolerance), f"{where}, batches of {size}")
    largest = min(batch_size, len(golden))
    if largest not in golden.answers:
        found = client.predict(model, golden.inputs, largest, version, internal=True)
        _compare_all(found, golden.outputs, _allowed(golden, golden.rough_tolerance), f"{where}, batches of {largest}")


def check_roughly(
    client: TritonClient, model: str, golden: Golden, *, version: int | None = None, samples: int | None = None
) -> int:
    """Ask a server that answers others, too, which may change the size of the batch that a query is computed in.

    Args:
        client: Of the server.
        model: Name of the model.
        golden: What to ask, one query at a time.
        version: Which one; None is the one that answers unversioned requests.
        samples: Only the first so many.

    Returns:
        The version that gave the last answer.

    Raises:
        ServingError: An answer is missing, of another shape, or too far off.
    """
    answered, allowed = 0, _allowed(golden, golden.rough_tolerance)
    for row in range(len(golden) if samples is None else min(samples, len(golden))):
        answer = client.answer(
            model, {name: values[row : row + 1] for name, values in golden.inputs.items()}, version, internal_id()
        )
        expected = {name: values[row : row + 1] for name, values in golden.outputs.items()}
        _compare_all(answer.outputs, expected, allowed, f"{_where(model, version)}, sample {row}")
        answered = answer.version
    return answered


def _batches(queries: Arrays, size: int) -> list[Arrays]:
    total = len(next(iter(queries.values())))
    return [{name: values[start : start + size] for name, values in queries.items()} for start in range(0, total, size)]


def _where(model: str, version: int | None) -> str:
    return f"{model} version {version}" if version is not None else f"{model}, the version that serves"


def _allowed(golden: Golden, tolerance: float) -> dict[str, float]:
    return {name: tolerance * float(np.abs(values).max(initial=0.0)) for name, values in golden.outputs.items()}


def _compare_all(found: Arrays, expected: Arrays, allowed: Mapping[str, float], where: str) -> None:
    for name, values in expected.items():
        _compare(found.get(name), on_the_wire(values), allowed[name], f"{where}, output {name!r}")


def _compare(answer: npt.NDArray[Any] | None, expected: npt.NDArray[Any], allowed: float, where: str) -> None:
    if answer is None or answer.shape != expected.shape:
        raise ServingError(
            "A served model answers in another shape than in-process.",
            where=where,
            value=f"{None if answer is None else answer.shape}, expected {expected.shape}",
            fix="Check the outputs in params.yaml against the model.",
        )
    # Written so that a NaN, which compares false with everything, is a difference.
    close = np.abs(answer.astype(np.float64) - expected) <= allowed
    if not close.all():
        at = tuple(int(index) for index in np.argwhere(~close)[0])
        raise ServingError(
            "A served model does not answer as it does in-process.",
            where=f"{where}, query {at[0]}",
            value=f"{answer[at]!r}, expected {expected[at]!r} within {allowed:.2g}; "
            f"{int((~close).sum())} of {close.size} values differ",
            fix="Compare the runtime versions of Triton's environment with the main one (`leanloop doctor`).",
        )
