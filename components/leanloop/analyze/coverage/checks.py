"""The table of checks, and the way in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from leanloop.convert import TARGETS
from leanloop.core.contracts import OperatorCoverage
from leanloop.core.registry import Registry

COVERAGE: Registry[Callable[[Path], OperatorCoverage]] = Registry("coverage check")
"""By target: reads an ONNX file and says which of its operators the target runs."""


def operator_coverage(onnx: Path, targets: Sequence[str]) -> tuple[OperatorCoverage, ...]:
    """Coverage of an ONNX file by each target; one that is not installed supports nothing, and its note says so."""
    return tuple(_coverage(onnx, target) for target in targets)


def _coverage(onnx: Path, target: str) -> OperatorCoverage:
    missing = TARGETS[target].can_convert() or TARGETS[target].can_run()
    if missing is None:
        return COVERAGE[target](onnx)
    return OperatorCoverage(
        target=target, supported=False, operators=0, quantisable=0, unsupported=(), note=f"{missing}."
    )


def describe(quantisable: Iterable[str], reasons: Sequence[str]) -> str:
    """The note: what stands in the way, or which operators have INT8 kernels."""
    if reasons:
        return f"{'; '.join(reasons)}."
    counts = Counter(quantisable)
    if not counts:
        return "No operator has an INT8 kernel."
    return f"INT8 kernels for {', '.join(f'{count} {kind}' for kind, count in counts.most_common())}."
