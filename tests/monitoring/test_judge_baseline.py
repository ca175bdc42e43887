"""Estimate, agreement, clipping and the baseline as a whole, on a constructed classifier whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leanloop.core.errors import DataError, StoreError
from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.judge import (
    Agreement,
    Baseline,
    Calibration,
    ParentAnswers,
    Range,
    judge,
)

CLASSES, COLUMNS = 2, 6
"""With two classes the confidence alone tells the chance of being right, as the estimate assumes."""

WEIGHTS = np.random.default_rng(100).normal(size=(COLUMNS, CLASSES))
LIMITS = {"level": 0.005, "max_drop": 0.05}


class World:
    """Rows, the answers of a model and of its parent, and the truth; `easy` scales the rows away from the borders."""

    def __init__(self, seed: int, samples: int, *, easy: float = 1.0, damage: float = 0.05) -> None:
        rng = np.random.default_rng(seed)
        self.rows = rng.normal(size=(samples, COLUMNS)) * easy
        self.parent = self.rows @ WEIGHTS
        # Overconfident by a factor of three: what it says of itself must be calibrated before it is believed.
        chances = np.exp(self.parent) / np.exp(self.parent).sum(axis=1, keepdims=True)
        self.truth = (chances.cumsum(axis=1) > rng.random((samples, 1))).argmax(axis=1)
        self.output = 3 * self.parent + 3 * damage * rng.normal(size=self.parent.shape)

    @property
    def accuracy(self) -> float:
        return float((self.output.argmax(axis=1) == self.truth).mean())


@pytest.fixture(scope="module")
def normal() -> World:
    return World(0, 6_000)


@pytest.fixture(scope="module")
def baseline(normal: World) -> Baseline:
    return Baseline.fit({"row": normal.rows}, normal.output, 3 * normal.parent, normal.truth, task="classification")


def test_an_overconfident_model_is_estimated_rightly_on_easier_and_harder_inputs(normal: World) -> None:
    calibration = Calibration.fit(normal.output, normal.truth)
    accuracies = []
    for easy in (0.5, 1.0, 2.0):
        window = World(1, 4_000, easy=easy)
        found = calibration.estimate(window.output, **LIMITS)
        assert found.accuracy is not None
        assert found.accuracy.value == pytest.approx(window.accuracy, abs=0.03)
        accuracies.append(window.accuracy)
    assert accuracies[-1] - accuracies[0] > 0.1, "the inputs must differ in difficulty"


def test_the_interval_of_an_estimate_holds_the_windows_accuracy(normal: World) -> None:
    calibration = Calibration.fit(normal.output, normal.truth)
    held = 0
    for seed in range(200):
        window = World(1_000 + seed, 200)
        interval = calibration.estimate(window.output, **LIMITS).accuracy
        assert interval is not None
        held += interval.low <= window.accuracy <= interval.high
    assert held >= 180


def test_an_estimate_falls_on_hard_inputs_only(normal: World) -> None:
    calibration = Calibration.fit(normal.output, normal.truth)
    quiet = [calibration.estimate(World(2_000 + seed, 150).output, level=0.005, max_drop=0.001) for seed in range(200)]
    assert sum(found.state == "falling" for found in quiet) <= 5
    assert calibration.estimate(World(3, 150, easy=0.3).output, **LIMITS).state == "falling"
    assert calibration.estimate(World(3, 99, easy=0.3).output, **LIMITS).state == "unknown"


def test_a_reference_without_a_wrong_answer_does_not_vouch_for_unsure_ones() -> None:
    sure = World(5, 250, easy=2.0).output
    calibration = Calibration.fit(sure, sure.argmax(axis=1))
    assert calibration.estimate(World(6, 150, easy=0.2).output, **LIMITS).state == "falling"
    quiet = [calibration.estimate(World(3_000 + seed, 150, easy=2.0).output, **LIMITS) for seed in range(100)]
    assert not [found for found in quiet if found.state == "falling"]


def test_a_drop_that_is_certain_and_small_is_no_fall(normal: World) -> None:
    calibration = Calibration.fit(normal.output, normal.truth)
    window = World(4, 5_000, easy=0.9).output
    assert calibration.estimate(window, level=0.005, max_drop=0.001).state == "falling"
    assert calibration.estimate(window, level=0.005, max_drop=0.2).state == "ok"


def test_harder_inputs_do_not_read_as_damage_and_damage_does(normal: World) -> None:
    agreement = Agreement.fit(normal.output, normal.parent, classifies=True)
    harder = [World(5_000 + seed, 300, easy=0.1) for seed in range(100)]
    verdicts = [agreement.judge(window.output, window.parent, level=0.005, max_drop=0.0) for window in harder]
    assert np.mean([verdict.agreement or 0 for verdict in verdicts]) < 0.97
    assert sum(verdict.state == "falling" for verdict in verdicts) <= 3
    damaged = World(6, 300, damage=0.5)
    found = agreement.judge(damaged.output, damaged.parent, level=0.005, max_drop=0.03)
    assert found.state == "falling"
    assert found.agreement is not None
    assert found.expected is not None
    assert found.agreement < found.expected - 0.03


def test_where_the_two_never_disagreed_the_parents_margins_tell_how_sure_it_is() -> None:
    reference = World(11, 250, easy=3.0, damage=0.0)
    agreement = Agreement.fit(reference.output, reference.parent, classifies=True)
    assert agreement.disagreed.sum() == 0
    harder = World(12, 60, easy=0.2, damage=0.5)
    found = agreement.judge(harder.output, harder.parent, **LIMITS)
    assert (found.state, found.parent) == ("falling", "falling")
    damaged = World(13, 60, easy=3.0, damage=4.0)
    found = agreement.judge(damaged.output, damaged.parent, **LIMITS)
    assert (found.state, found.parent) == ("falling", "ok")
    quiet = [World(7_000 + seed, 60, easy=3.0, damage=0.0) for seed in range(300)]
    verdicts = [agreement.judge(one.output, one.parent, **LIMITS).parent for one in quiet]
    assert verdicts.count("falling") <= 3, "a hundredth of windows of few pairs"


def test_a_small_lack_of_agreement_is_left_to_the_floor(normal: World) -> None:
    agreement = Agreement.fit(normal.output, normal.parent, classifies=True)
    window = World(7, 5_000, damage=0.1)
    assert agreement.judge(window.output, window.parent, level=0.005, max_drop=0.001).state == "falling"
    assert agreement.judge(window.output, window.parent, level=0.005, max_drop=0.1).state == "ok"


def test_few_pairs_of_answers_are_not_judged(normal: World) -> None:
    agreement = Agreement.fit(normal.output, normal.parent, classifies=True)
    window = World(8, 49, damage=5)
    found = agreement.judge(window.output, window.parent, **LIMITS)
    assert (found.state, found.samples) == ("unknown", 49)
    assert agreement.judge(window.output[:0], window.parent[:0], **LIMITS).agreement is None


def test_a_regression_agrees_within_what_is_usual() -> None:
    rng = np.random.default_rng(9)
    parent = rng.normal(size=(4_000, 1))
    agreement = Agreement.fit(parent + 0.1 * rng.normal(size=parent.shape), parent, classifies=False)
    fresh = rng.normal(size=(200, 1))
    quiet = agreement.judge(fresh + 0.1 * rng.normal(size=fresh.shape), fresh, **LIMITS)
    assert quiet.state == "ok"
    assert quiet.expected == pytest.approx(0.95, abs=0.01)
    assert agreement.judge(fresh + 0.3 * rng.normal(size=fresh.shape), fresh, **LIMITS).state == "falling"


def test_values_beyond_what_was_seen_are_counted_by_value_and_by_record() -> None:
    rng = np.random.default_rng(10)
    seen = Range.fit(rng.random((2_000, 1, 8, 8)))
    window = rng.random((200, 1, 8, 8))
    assert seen.judge("image", window, level=0.005).state == "ok"
    window[:50, 0, 0, 0] = 1.5
    found = seen.judge("image", window, level=0.005)
    assert found.state == "drifting"
    assert found.records == pytest.approx(0.25, abs=0.02)
    assert found.values == pytest.approx(50 / window.size, rel=0.2)
    assert seen.judge("image", window[:99], level=0.005).state == "unknown"


def test_each_column_of_a_row_has_its_own_range() -> None:
    rng = np.random.default_rng(11)
    scales = np.array([1.0, 1_000.0])
    seen = Range.fit(rng.random((2_000, 2)) * scales)
    window = rng.random((200, 2)) * scales
    window[:, 0] *= 100
    assert seen.judge("row", window, level=0.005).state == "drifting"
    quiet = [seen.judge("row", rng.random((200, 2)) * scales, level=0.005).state for _ in range(100)]
    assert quiet.count("drifting") <= 2


def test_a_baseline_is_read_as_it_was_written(baseline: Baseline, tmp_path: Path) -> None:
    baseline.save(tmp_path)
    again, window = Baseline.load(tmp_path), World(12, 300, easy=0.5, damage=0.3)
    settings = MonitoringSettings()
    asked = ParentAnswers(np.arange(0, 300, 3), 3 * window.parent[::3])
    arguments = ({"row": window.rows}, window.output, settings)
    first = judge(baseline, *arguments, labels=window.truth, parent=asked)
    assert judge(again, *arguments, labels=window.truth, parent=asked) == first
    assert first.drift.drifts
    assert first.agreement.samples == 100
    assert first.accuracy.labelled == 300
    assert again.columns.numbers.keys() == baseline.columns.numbers.keys()
    assert np.array_equal(again.targets, baseline.targets)


def test_a_baseline_that_was_changed_is_refused(baseline: Baseline, tmp_path: Path) -> None:
    baseline.save(tmp_path)
    with (tmp_path / "baseline.npz").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(StoreError, match="missing or changed"):
        Baseline.load(tmp_path)
    baseline.save(tmp_path)
    record = json.loads((tmp_path / "baseline.json").read_text())
    (tmp_path / "baseline.json").write_text(json.dumps(record | {"schema_version": 2}))
    with pytest.raises(StoreError, match="not what this version"):
        Baseline.load(tmp_path)


def test_a_quiet_window_is_quiet_in_all_questions(baseline: Baseline) -> None:
    window = World(13, 500)
    asked = ParentAnswers(np.arange(100), 3 * window.parent[:100])
    found = judge(
        baseline, {"row": window.rows}, window.output, MonitoringSettings(), labels=window.truth, parent=asked
    )
    assert found.drift.drifts is False
    states = (found.agreement.state, found.agreement.parent, found.accuracy_state, found.estimate.state)
    assert (*states, found.clipping[0].state) == ("ok",) * 5
    assert found.broken == 0


def test_records_that_are_not_finite_are_counted_and_left_out(baseline: Baseline) -> None:
    window = World(14, 500)
    window.rows[:20, 0] = np.nan
    window.output[20:30] = np.inf
    asked = ParentAnswers(np.arange(100), 3 * window.parent[:100])
    found = judge(
        baseline, {"row": window.rows}, window.output, MonitoringSettings(), labels=window.truth, parent=asked
    )
    assert (found.samples, found.broken) == (500, 30)
    assert found.drift.samples == found.accuracy.labelled == found.estimate.samples == 470
    assert found.agreement.samples == 70
    assert found.drift.drifts is False


@pytest.mark.parametrize(("easy", "parent"), [(1.0, "ok"), (0.2, "falling")])
def test_compression_is_told_from_what_the_parent_does_not_know_either(
    baseline: Baseline, easy: float, parent: str
) -> None:
    window = World(16, 500, easy=easy, damage=2.0)
    asked = ParentAnswers(np.arange(150), 3 * window.parent[:150])
    found = judge(baseline, {"row": window.rows}, window.output, MonitoringSettings(), parent=asked)
    assert (found.agreement.state, found.agreement.parent) == ("falling", parent)


def test_what_is_not_known_stays_unknown(normal: World) -> None:
    bare = Baseline.fit({"row": normal.rows}, normal.output, None, None, task="classification")
    window = World(15, 500, easy=0.3)
    found = judge(bare, {"row": window.rows}, window.output, MonitoringSettings())
    assert found.drift.drifts
    states = (found.agreement.state, found.agreement.parent, found.accuracy_state, found.estimate.state)
    assert states == ("unknown",) * 4
    empty = judge(bare, {"row": window.rows[:0]}, window.output[:0], MonitoringSettings())
    assert empty.drift.drifts is None
    assert empty.clipping[0].state == "unknown"


def test_a_regression_has_drift_and_agreement_and_no_accuracy(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    rows = rng.normal(size=(2_000, 3))
    values = rows.sum(axis=1, keepdims=True)
    Baseline.fit({"row": rows}, values + 0.01, values, values, task="regression").save(tmp_path)
    found = judge(Baseline.load(tmp_path), {"row": rows[:400] + 1}, values[:400], MonitoringSettings())
    assert found.drift.drifts
    assert (found.accuracy_state, found.estimate.state, found.accuracy.accuracy) == ("unknown", "unknown", None)


def test_a_baseline_of_bad_samples_is_refused(normal: World) -> None:
    rows, output = {"row": normal.rows}, normal.output
    with pytest.raises(DataError, match="too few"):
        Baseline.fit({"row": normal.rows[:50]}, output[:50], None, None, task="classification")
    with pytest.raises(DataError, match="as many samples"):
        Baseline.fit(rows, output[:-1], None, None, task="classification")
    broken = normal.rows.copy()
    broken[0, 0] = np.nan
    with pytest.raises(DataError, match="finite"):
        Baseline.fit({"row": broken}, output, None, None, task="classification")
