"""Evidently reports: real ones, in the worker process, with the judgement's own distances and thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from leanloop.core.errors import DataError, StoreError
from leanloop.monitoring.judge import Baseline, judge_window
from leanloop.monitoring.reports import Reporter

LEVEL = 0.005


def window(seed: int, samples: int, *, offset: float = 0.0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(samples, 4))
    logits = rows[:, :3] * 2
    truth = np.where(rng.random(samples) < 0.8, logits.argmax(axis=1), rng.integers(3, size=samples))
    rows[:, 3] += offset
    return {"row": rows}, logits, truth


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    inputs, output, truth = window(0, 2_000)
    return Baseline.fit(inputs, output, None, truth, task="classification")


@pytest.fixture(scope="module")
def reporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reporter]:
    with Reporter(tmp_path_factory.mktemp("reports")) as reporter:
        yield reporter


def test_a_report_shows_what_the_judgement_saw(baseline: Baseline, reporter: Reporter) -> None:
    inputs, output, truth = window(1, 500, offset=0.5)
    labels = np.where(np.arange(500) % 2 == 0, truth, -1)
    reports = reporter.write("shifted", baseline, inputs, output, level=LEVEL, labels=labels)
    judged = judge_window(baseline.reference, inputs, output, level=LEVEL).features
    beyond = {feature.name for feature in judged if feature.distance >= feature.threshold} - {"together"}
    assert set(reports.drifted) == beyond
    assert "row.column3" in beyond
    page = reports.drift.read_text()
    assert "leanloop" in page
    assert "row.column3" in page
    assert reports.quality is not None
    assert "Accuracy" in reports.quality.read_text()


def test_a_quiet_window_has_no_drifted_column_and_needs_no_labels(baseline: Baseline, reporter: Reporter) -> None:
    inputs, output, _ = window(2, 500)
    reports = reporter.write("quiet", baseline, inputs, output, level=LEVEL)
    assert reports.drifted == ()
    assert reports.quality is None
    nobody = reporter.write("quiet", baseline, inputs, output, level=LEVEL, labels=np.full(500, -1))
    assert nobody.quality is None


def test_an_empty_column_is_left_out_and_named(baseline: Baseline, reporter: Reporter) -> None:
    inputs, output, _ = window(3, 300)
    inputs["row"][:, 1] = np.nan
    inputs["row"][:7, 2] = np.inf
    reports = reporter.write("broken", baseline, inputs, output, level=LEVEL)
    assert "row.column1" in reports.left_out
    assert "row.column2" not in reports.left_out
    assert "no finite value: row.column1." in reports.drift.read_text()


def test_one_worker_writes_all_reports(baseline: Baseline, tmp_path: Path) -> None:
    inputs, output, _ = window(4, 200)
    # Another file's fixture may keep a child of its own while this one is tested.
    before, workers = children(), []
    with Reporter(tmp_path) as reporter:
        for name in ("first", "second"):
            written = reporter.write(name, baseline, inputs, output, level=LEVEL)
            workers.append(children() - before)
            assert [path.name for path in written.drift.parent.glob(f"{name}*")] == [f"{name}-drift.html"]
    assert workers[0] == workers[1]
    assert len(workers[0]) == 1
    assert children() == before


def children() -> set[int]:
    """Processes of ours that serve calls."""
    family = psutil.Process().children()
    return {child.pid for child in family if "leanloop.core.child" in child.cmdline()}


def test_what_cannot_be_reported_is_refused(baseline: Baseline, reporter: Reporter) -> None:
    inputs, output, _ = window(5, 200)
    with pytest.raises(DataError, match="no report"):
        reporter.write("empty", baseline, inputs, np.full_like(output, np.nan), level=LEVEL)
    with pytest.raises(StoreError, match="leads out"):
        reporter.write("../away", baseline, inputs, output, level=LEVEL)
