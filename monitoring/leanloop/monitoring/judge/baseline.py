"""All that live windows of one release are compared with, in two files: ``baseline.npz`` and ``baseline.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np

from leanloop.core.contracts import FileContract
from leanloop.core.errors import DataError, StoreError
from leanloop.core.files import atomic_file, digest_file
from leanloop.monitoring.judge.agreement import Agreement
from leanloop.monitoring.judge.clipping import Range
from leanloop.monitoring.judge.estimate import Calibration
from leanloop.monitoring.judge.features import Arrays, Features, finite, predicted
from leanloop.monitoring.judge.reference import Reference, below

Task = Literal["classification", "regression"]

LEAST_SAMPLES = 100
"""A smaller reference tells too little of what is normal."""

COLUMN_ROWS = 5_000
"""Rows of the reference's features that are kept for reports, at most."""

_ARRAYS = "baseline.npz"


class BaselineRecord(FileContract):
    """What ``baseline.json`` tells of ``baseline.npz``.

    Attributes:
        task: Of the model.
        samples: That it was fitted on.
        accuracy: Of the release's artifact on them; None for a regression or without targets.
        sha256: Of ``baseline.npz``.
    """

    filename: ClassVar[str] = "baseline.json"

    task: Task
    samples: int
    accuracy: float | None
    sha256: str


@dataclass(frozen=True, eq=False)
class Baseline:
    """Immutable; one per release.

    Attributes:
        task: Of the model.
        samples: That it was fitted on.
        accuracy: Of the release's artifact on them; None for a regression or without targets.
        reference: For drift.
        ranges: By input name, for clipping.
        calibration: For accuracy without labels; None for a regression or without targets.
        agreement: With the parent; None when there is none to compare with.
        columns: Features of reference samples, for reports, [at most 5,000] each.
        targets: Class numbers of the same samples; None as above.
    """

    task: Task
    samples: int
    accuracy: float | None
    reference: Reference
    ranges: dict[str, Range]
    calibration: Calibration | None
    agreement: Agreement | None
    columns: Features
    targets: np.ndarray | None

    @classmethod
    def fit(
        cls,
        inputs: Arrays,
        output: np.ndarray,
        parent_output: np.ndarray | None,
        targets: np.ndarray | None,
        *,
        task: Task,
    ) -> Self:
        """From samples that stand for normal, in random order, [samples, ...] each.

        Args:
            inputs: By name.
            output: First output of the release's artifact.
            parent_output: First output of the parent on the same samples; None when there is no parent to ask.
            targets: What is right: class numbers; None when not known.
            task: Of the model.

        Raises:
            DataError: Too few samples, unequal numbers of them, or values that are not finite.
        """
        _check(inputs, output, parent_output, targets)
        classifies = task == "classification"
        calibration = accuracy = known = None
        if classifies and targets is not None:
            known = np.asarray(targets).reshape(len(output)).astype(np.int64)
            accuracy = float((predicted(output) == known).mean())
            calibration = Calibration.fit(output, known)
        reference = Reference.fit(inputs, output, classifies=classifies)
        # The reference's distributions are those of every second sample: reports then show what was judged.
        kept = slice(1, 2 * COLUMN_ROWS, 2)
        return cls(
            task=task,
            samples=len(output),
            accuracy=accuracy,
            reference=reference,
            ranges={name: Range.fit(values) for name, values in inputs.items()},
            calibration=calibration,
            agreement=None if parent_output is None else Agreement.fit(output, parent_output, classifies=classifies),
            columns=reference.features({name: values[kept] for name, values in inputs.items()}, output[kept]),
            targets=None if known is None else known[kept],
        )

    def save(self, folder: Path) -> None:
        """Write both files into a folder, the record last."""
        parts = {f"reference/{name}": array for name, array in self.reference.arrays().items()}
        for name, seen in self.ranges.items():
            parts |= {f"low/{name}": seen.low, f"high/{name}": seen.high}
            parts[f"held_out/{name}"] = np.array([seen.outside, seen.inside])
        if self.calibration is not None:
            parts |= {f"calibration/{name}": array for name, array in self.calibration.arrays().items()}
        if self.agreement is not None:
            parts |= {f"agreement/{name}": array for name, array in self.agreement.arrays().items()}
        parts |= {f"numbers/{name}": column for name, column in self.columns.numbers.items()}
        parts |= {f"classes/{name}": column for name, column in self.columns.classes.items()}
        if self.targets is not None:
            parts["targets"] = self.targets
        with atomic_file(folder / _ARRAYS) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **parts)
        digest = digest_file(folder / _ARRAYS)
        BaselineRecord(task=self.task, samples=self.samples, accuracy=self.accuracy, sha256=digest).save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: A file is missing, or is not the one that the record tells of.
        """
        record, path = BaselineRecord.load(folder), folder / _ARRAYS
        if not path.exists() or digest_file(path) != record.sha256:
            raise StoreError(
                "A baseline's arrays are missing or changed.", where=str(path), fix="Deploy the release again."
            )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        calibration, agreement = below(arrays, "calibration"), below(arrays, "agreement")
        return cls(
            task=record.task,
            samples=record.samples,
            accuracy=record.accuracy,
            reference=Reference.from_arrays(below(arrays, "reference")),
            ranges={
                name: Range(low, arrays[f"high/{name}"], *arrays[f"held_out/{name}"].tolist())
                for name, low in below(arrays, "low").items()
            },
            calibration=Calibration.from_arrays(calibration) if calibration else None,
            agreement=Agreement.from_arrays(agreement) if agreement else None,
            columns=Features(below(arrays, "numbers"), below(arrays, "classes")),
            targets=arrays.get("targets"),
        )


def _check(inputs: Arrays, output: np.ndarray, parent_output: np.ndarray | None, targets: np.ndarray | None) -> None:
    given = {f"input {name}": values for name, values in inputs.items()} | {"output": output}
    given |= {} if parent_output is None else {"parent's output": parent_output}
    given |= {} if targets is None else {"targets": targets}
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) != 1:
        raise DataError("A baseline needs as many samples of each.", where="baseline", value=lengths)
    if len(output) < LEAST_SAMPLES:
        raise DataError(
            "There are too few samples to tell what is normal.",
            where="baseline",
            value=len(output),
            fix=f"Give at least {LEAST_SAMPLES}, better thousands.",
        )
    for name, values in given.items():
        if not finite(values).all():
            raise DataError("A baseline's values must be finite.", where=name, value=int((~finite(values)).sum()))
