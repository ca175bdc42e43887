"""The rows of ``make bench-techniques``: recipes and searches on the Fashion-MNIST CNN, with what each must reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search import TOGETHER, Wanted


@dataclass(frozen=True)
class Bars:
    """What a row must reach: bytes at most, times faster and accuracy at least; None claims nothing.

    Attributes:
        bytes_percent: Of the original's weights file.
        over_eager: Times faster than PyTorch eager fp32.
        over_fp32: Times faster than the original in fp32 on the same runtime.
        kept_percent: Of the original's test accuracy.
        batch: Where it must be faster; None counts the better of both batch sizes.
        packed: Compare compressed bytes on both sides.
    """

    bytes_percent: float | None
    over_eager: float | None
    over_fp32: float | None
    kept_percent: float
    batch: int | None = None
    packed: bool = False


def taught(technique: str = "distillation", **fields: Any) -> dict[str, Any]:
    """A technique that trains, with a small network's share of labels."""
    return {"technique": technique, "alpha": 0.3, **fields}


def student(first: int, second: int, third: int, epochs: int) -> list[dict[str, Any]]:
    """A narrow network, trained from fresh weights."""
    arguments = f'{{"first": {first}, "second": {second}, "third": {third}}}'
    return [{"technique": "student", "arguments": arguments}, taught(epochs=epochs, learning_rate=0.3)]


LADDERS: dict[str, tuple[Bars, tuple[tuple[str, list[dict[str, Any]]], ...]]] = {
    "unstructured pruning": (
        Bars(30, 2, None, 99, packed=True),
        tuple(
            ("openvino", [taught("unstructured_pruning", sparsity=sparsity, epochs=3, learning_rate=0.02)])
            for sparsity in (0.9, 0.85, 0.8)
        ),
    ),
    "2:4 pruning, for TensorRT": (
        Bars(None, None, None, 99, packed=True),
        (("openvino", [taught("semi_structured_pruning", epochs=3, learning_rate=0.02)]),),
    ),
    "channel pruning": (
        Bars(20, 3, 2.5, 99),
        tuple(
            ("openvino", [{"technique": "channel_pruning", "ratio": ratio}, taught(epochs=8)])
            for ratio in (0.625, 0.5625)
        ),
    ),
    "INT8": (
        Bars(28, 4, 2, 99.5),
        (("openvino", [{"technique": "nncf_int8"}]), ("onnxruntime", [{"technique": "ort_static_int8"}])),
    ),
    "distillation into a smaller student": (
        Bars(10, 5, 2.5, 98.5),
        tuple(("openvino", student(first, 20, third, 16)) for first, third in ((12, 32), (12, 36))),
    ),
}
"""Row -> its bars, and target and techniques of its recipes."""

FLATTERED = 0.005
"""Share that everybody may lose on validation beyond what is to be kept of the *test* accuracy, which alone decides.

The original's training was stopped where validation was best: it is 0.9 points better there than on test, students 0.6
on average. And a search asks that noise does not stand against a candidate, which takes half a point more.
"""

KEPT_99, KEPT_98 = 0.01 + FLATTERED, 0.02 + FLATTERED
"""Share of the validation accuracy that may be lost where 99 or 98 % of the test accuracy are asked for; peers, too."""

TOGETHER_MINUTES = 20.0
"""Of each goal: the same for both, so that trainings are equally long, and the second goal finds the first one's."""

REPLAYED = "everything together, goal batch 1"
"""The row whose winner is made again by its own script."""

SEARCHES: dict[str, tuple[Bars, Wanted]] = {
    "architecture search": (
        Bars(5, 10, 4, 98),
        Wanted(
            32,
            ("student", "channel_pruning", "block_removal", "distillation", "openvino_bf16"),
            12.0,
            5,
            KEPT_98,
        ),
    ),
    "everything together, goal batch 1": (
        Bars(5, 25, None, 99, batch=1),
        Wanted(1, TOGETHER, TOGETHER_MINUTES, 5, KEPT_99),
    ),
    "everything together, goal batch 32": (
        Bars(5, 25, None, 99, batch=32),
        Wanted(32, TOGETHER, TOGETHER_MINUTES, 5, KEPT_99),
    ),
}
"""Row -> its bars, and what the search is asked for."""
