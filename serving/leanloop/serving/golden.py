"""Golden queries: real samples with the answers that a served version must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leanloop.core.errors import ServingError
from leanloop.serving.client import Arrays, TritonClient, on_the_wire


@dataclass(frozen=True)
class Golden:
    """Queries and answers, the sample on axis 0 of every array.

    Attributes:
        inputs: By name.
        outputs: By name, as the artifact gave them in-process.
        tolerance: How far any element may be off, as a share of the output's largest one. An integer model rounds
            in steps of about a hundredth of that, and batches of other sizes may round otherwise.
    """

    inputs: Arrays
    outputs: Arrays
    tolerance: float

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def check_golden(
    client: TritonClient, model: str, golden: Golden, *, batch_size: int, version: int | None = None
) -> None:
    """Ask all golden queries, first one by one and then in batches.

    Raises:
        ServingError: An answer is missing, of another shape, or too far off.
    """
    for size in sorted({1, min(batch_size, len(golden))}):
        answers = client.predict(model, golden.inputs, size, version, internal=True)
        for name, expected in golden.outputs.items():
            _compare(
                answers.get(name),
                on_the_wire(expected),
                golden.tolerance,
                f"{model} version {version}, output {name!r}",
            )


def _compare(
    answer: npt.NDArray[Any] | None,
    expected: npt.NDArray[Any],
    tolerance: float,
    where: str,
) -> None:
    if answer is None or answer.shape != expected.shape:
        raise ServingError(
            "A served model answers in another shape than in-process.",
            where=where,
            value=f"{None if answer is None else answer.shape}, expected {expected.shape}",
            fix="Check the outputs in params.yaml against the model.",
        )
    # Written so that a NaN, which compares false with everything, is a difference.
    allowed = tolerance * float(np.abs(expected).max(initial=0.0))
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
