"""Evidently reports of one window: they explain a decision, and never make one.

Each shows the very distances and thresholds that the judgement used, as a statistic of our own that Evidently is told
to take for each column; what it would choose by itself raises false alarms on most small windows. Images have no
columns, so that a report's columns are the watched features.

Evidently takes seconds to import and keeps whole frames in memory, so it lives in a limited child process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from leanloop.core.child import Child
from leanloop.core.errors import DataError
from leanloop.core.files import inside
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.judge.drift import thresholds
from leanloop.monitoring.judge.features import Arrays, Features, finite

ROWS = 10_000
"""Of a window, at most: Evidently's time grows faster than they do."""

_TIMEOUT_SECONDS = 300.0
_MEMORY_BYTES = 2 << 30


@dataclass(frozen=True)
class Reports:
    """What was written for one window.

    Attributes:
        drift: HTML of the data drift.
        quality: HTML of the classification quality; None without labels, or when the reference has none.
        drifted: Columns that lie beyond their threshold.
        left_out: Columns without any finite value, which a report cannot show.
    """

    drift: Path
    quality: Path | None
    drifted: tuple[str, ...]
    left_out: tuple[str, ...]


class Reporter:
    """Writes reports, one after another; use it as a context manager, or `close` it.

    Args:
        folder: Where the reports go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._child = folder, Child()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        self._child.close()

    def write(
        self,
        name: str,
        baseline: Baseline,
        inputs: Arrays,
        output: np.ndarray,
        *,
        level: float,
        labels: np.ndarray | None = None,
    ) -> Reports:
        """Report on one window: ``<name>-drift.html`` and, with labels, ``<name>-quality.html``.

        Args:
            name: File name without its end.
            baseline: Of the release that answered.
            inputs: By name, [records, ...]; of more than 10,000 records every so many are shown.
            output: The first output, [records, ...]; records whose output is not finite are left out.
            level: Chance of a false alarm per window, as the judgement uses it.
            labels: Class numbers, [records], negative where none has come.

        Raises:
            DataError: No record has a finite output, or no column a finite value.
            StoreError: The name leads out of the folder.
            UnsupportedError: Evidently cannot be imported.
            ChildError: The worker failed, or took too long or too much.
        """
        paths = {kind: inside(self._folder, f"{name}-{kind}.html") for kind in ("drift", "quality")}
        answered = np.flatnonzero(finite(output))
        if not len(answered):
            raise DataError("A window without finite answers has no report.", where=name, value=len(output))
        chosen = answered[np.linspace(0, len(answered) - 1, min(len(answered), ROWS)).astype(np.int64)]
        inputs, output = {key: values[chosen] for key, values in inputs.items()}, output[chosen]
        current = baseline.reference.features(inputs, output)
        empty = tuple(key for key, column in current.numbers.items() if not np.isfinite(column).any())
        shown = _without(current, empty)
        if not shown.numbers and not shown.classes:
            raise DataError("No column of the window has a finite value.", where=name, value=", ".join(empty))
        limits = thresholds(baseline.reference, len(output), level)
        frames = {"reference": _without(baseline.columns, empty), "current": shown}
        targets = {"reference": baseline.targets, "current": None if labels is None else labels[chosen]}
        with tempfile.TemporaryDirectory(prefix="leanloop-report-") as scratch:
            arrays = Path(scratch) / "columns.npz"
            np.savez(arrays, allow_pickle=False, **_as_arrays(frames, targets))
            told: dict[str, Any] = self._child.call(
                "leanloop.monitoring.report_worker:write",
                {
                    "arrays": str(arrays),
                    "drift": str(paths["drift"]),
                    "quality": str(paths["quality"]),
                    "thresholds": {key: limits[key] for key in (*shown.numbers, *shown.classes)},
                    "left_out": list(empty),
                },
                folder=Path(scratch) / "call",
                timeout_seconds=_TIMEOUT_SECONDS,
                memory_bytes=_MEMORY_BYTES,
            )
        quality = paths["quality"] if told["quality"] else None
        return Reports(paths["drift"], quality, tuple(told["drifted"]), empty)


def _without(columns: Features, names: tuple[str, ...]) -> Features:
    return Features({key: column for key, column in columns.numbers.items() if key not in names}, columns.classes)


def _as_arrays(frames: Mapping[str, Features], targets: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for side, columns in frames.items():
        arrays |= {f"{side}/number/{key}": column for key, column in columns.numbers.items()}
        arrays |= {f"{side}/class/{key}": column for key, column in columns.classes.items()}
        known = targets[side]
        if known is not None:
            arrays[f"{side}/target"] = known
    return arrays
