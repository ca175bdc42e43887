"""The side of a report that imports Evidently; it runs in `leanloop.monitoring.reports`' child process only."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanloop.core.errors import UnsupportedError
from leanloop.core.files import write_text
from leanloop.monitoring.judge.distribution import Distribution
from leanloop.monitoring.judge.reference import below

if TYPE_CHECKING:
    import pandas as pd

STATISTIC = "leanloop_distance"


def write(arrays: str, drift: str, quality: str, thresholds: dict[str, float], left_out: list[str]) -> dict[str, Any]:
    """Write the reports.

    Args:
        arrays: Path of an ``.npz`` with ``<side>/number/<column>``, ``<side>/class/<column>`` and, where known,
            ``<side>/target`` (negative: no label), for the sides ``reference`` and ``current``.
        drift: Where the data drift goes.
        quality: Where the classification quality goes, when both sides have targets.
        thresholds: Of the distance, by column.
        left_out: Columns to say are not shown.

    Returns:
        ``drifted``, the columns beyond their thresholds, and ``quality``, whether that report was written.

    Raises:
        UnsupportedError: Evidently cannot be imported.
    """
    os.environ["DO_NOT_TRACK"] = "1"
    try:
        import evidently  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            "Evidently cannot be imported.",
            where="reports",
            value=error,
            fix="Install `leanloop[monitoring]` at the versions of constraints.txt.",
        ) from error
    with np.load(arrays, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    sides = {side: below(found, side) for side in ("reference", "current")}
    drifted = _write_drift(Path(drift), sides, thresholds, left_out)
    return {"drifted": drifted, "quality": _write_quality(Path(quality), sides)}


def _write_drift(
    path: Path, sides: dict[str, dict[str, np.ndarray]], thresholds: dict[str, float], left_out: list[str]
) -> list[str]:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers, classes = (list(below(sides["current"], kind)) for kind in ("number", "class"))
    # All kinds of columns are named, so that none is guessed.
    definition = DataDefinition(
        numerical_columns=numbers,
        categorical_columns=classes,
        text_columns=[],
        datetime_columns=[],
        unknown_columns=[],
        list_columns=[],
    )
    reference, current = (
        Dataset.from_pandas(
            pd.DataFrame(below(sides[side], "number") | below(sides[side], "class")), data_definition=definition
        )
        for side in ("reference", "current")
    )
    _register_statistic()
    columns = numbers + classes
    preset = DataDriftPreset(
        columns=columns,
        per_column_method=dict.fromkeys(columns, STATISTIC),
        per_column_threshold=thresholds,
        include_tests=False,
    )
    snapshot = Report([preset]).run(current, reference)
    notes = [f"Not shown, because it has no finite value: {name}." for name in left_out]
    _write_html(path, snapshot, notes)
    values = {
        metric["config"]["column"]: metric["value"]
        for metric in snapshot.dict()["metrics"]
        if metric["config"].get("column")
    }
    return [name for name in columns if values[name] >= thresholds[name]]


def _write_quality(path: Path, sides: dict[str, dict[str, np.ndarray]]) -> bool:
    if not all("target" in columns and "class/output.class" in columns for columns in sides.values()):
        return False
    if not all((columns["target"] >= 0).any() for columns in sides.values()):
        return False
    import pandas as pd
    from evidently import DataDefinition, Dataset, MulticlassClassification, Report
    from evidently.presets import ClassificationQuality

    definition = DataDefinition(
        numerical_columns=[],
        categorical_columns=["target", "prediction"],
        text_columns=[],
        datetime_columns=[],
        unknown_columns=[],
        list_columns=[],
        classification=[MulticlassClassification(target="target", prediction_labels="prediction")],
    )
    reference, current = (
        Dataset.from_pandas(
            pd.DataFrame({"target": columns["target"][known], "prediction": columns["class/output.class"][known]}),
            data_definition=definition,
        )
        for columns in (sides["reference"], sides["current"])
        for known in (columns["target"] >= 0,)
    )
    _write_html(
        path, Report([ClassificationQuality(conf_matrix=True, include_tests=False)]).run(current, reference), []
    )
    return True


def _register_statistic() -> None:
    """Teach Evidently the judgement's own distance."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def distance(reference: pd.Series[Any], current: pd.Series[Any], kind: Any, threshold: float) -> tuple[float, bool]:
        if kind == ColumnType.Categorical:
            seen, live = reference.to_numpy(dtype=np.int64), current.to_numpy(dtype=np.int64)
            found = Distribution.of_classes(seen, int(max(seen.max(), live.max())) + 1).distance(live)
        else:
            found = Distribution.of_numbers(reference.to_numpy(dtype=np.float64)).distance(
                current.to_numpy(dtype=np.float64)
            )
        return found, found >= threshold

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    register_stattest(StatTest(STATISTIC, "leanloop's distance", kinds), distance)


def _write_html(path: Path, snapshot: Any, notes: list[str]) -> None:
    page = snapshot.get_html_str(as_iframe=False)
    told = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    before, body, after = page.partition("<body>")
    write_text(path, f"{before}{body}{told}{after}" if body else f"{told}{page}")
