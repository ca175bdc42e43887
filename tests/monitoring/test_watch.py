"""A release under watch: drift, accuracy, agreement and broken records are seen, and outlive a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.collect import rows_of
from leanloop.monitoring.feed import Feed
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.judge.features import Arrays
from leanloop.monitoring.labels import Label, Labels
from leanloop.monitoring.served import KeptBaseline
from leanloop.monitoring.watch import ReleaseWatch, taken_rows
from leanloop.serving import ModelSpec, TensorSpec
from leanloop.serving.capture_format import Record

WINDOW = 200
SETTINGS = MonitoringSettings(window=WINDOW, raise_after=2, of=3, clear_after=2, parent_samples=60)
SPEC = ModelSpec(
    name="net", inputs=(TensorSpec(name="x", shape=(6,)),), outputs=(TensorSpec(name="logits", shape=(3,)),)
)
WEIGHTS = np.random.default_rng(7).normal(size=(6, 3))


def parent(inputs: Arrays) -> np.ndarray:
    return np.asarray(inputs["x"] @ WEIGHTS * 3)


def served(inputs: Arrays, rng: np.random.Generator) -> np.ndarray:
    clean = parent(inputs)
    return np.asarray(clean + rng.normal(0, 0.3, clean.shape)).astype(np.float32)


def right(inputs: Arrays, rng: np.random.Generator) -> np.ndarray:
    noise = rng.gumbel(size=(len(inputs["x"]), 3))
    return np.asarray((parent(inputs) + noise).argmax(axis=1))


class World:
    """Asks, captures and labels, as live traffic does."""

    def __init__(self, root: Path, labels: Labels) -> None:
        self.rng = np.random.default_rng(1)
        self.root, self.labels, self.requests = root, labels, 0

    def draw(self, count: int, shift: float = 0.0) -> dict[str, np.ndarray]:
        return {"x": (self.rng.normal(size=(count, 6)) + shift).astype(np.float32)}

    def ask(
        self, windows: int = 1, *, shift: float = 0.0, labelled: bool = False, lie: bool = False, damage: bool = False
    ) -> None:
        inputs = self.draw(windows * WINDOW, shift)
        answers = served(inputs, self.rng)
        if damage:
            answers[::3] = np.roll(answers[::3], 1, axis=1)
        truth = right(inputs, self.rng)
        if lie:
            truth = (truth + 1) % 3
        identity = f"r{self.requests}"
        self.requests += 1
        record = Record(identity, "net", 2, float(self.requests), 0.1, inputs, {"logits": answers})
        folder = self.root / "model=net/version=2/date=2026-11-22"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows_of([record]), folder / f"{self.requests:05d}.parquet")
        if labelled:
            given = [Label(request_id=identity, sample=index, label=int(one)) for index, one in enumerate(truth)]
            self.labels.add("net", given)


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(3_000, 6)).astype(np.float32)}
    return Baseline.fit(inputs, served(inputs, rng), parent(inputs), right(inputs, rng), task="classification")


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> World:
    return World(tmp_path / "rows", Labels(engine))


def watch(
    engine: Engine, world: World, baseline: Baseline | None, key: str = "first", since: float = 0.0
) -> ReleaseWatch:
    feed = Feed(world.root, SPEC, 2, WINDOW, 60.0, taken_rows(engine, "net", 2), since)
    kept = None if baseline is None else KeptBaseline(key, baseline)
    return ReleaseWatch(engine, SETTINGS, feed, kept, world.labels, parent)


def test_quiet_traffic_is_as_before(engine: Engine, world: World, baseline: Baseline) -> None:
    seen = watch(engine, world, baseline)
    assert (seen.inputs, seen.accuracy, seen.agreement) == ("unknown", "unknown", "unknown")
    world.ask(3, labelled=True)
    assert seen.look(0.0) == 3
    assert (seen.inputs, seen.accuracy, seen.estimate, seen.agreement) == ("ok", "ok", "ok", "ok")
    assert seen.drifting_since is None
    assert seen.coverage() == 1.0
    assert seen.look(0.0) == 0


def test_one_strange_window_is_no_drift_and_two_are(engine: Engine, world: World, baseline: Baseline) -> None:
    seen = watch(engine, world, baseline)
    world.ask(2)
    world.ask(1, shift=0.8)
    seen.look(0.0)
    assert seen.inputs == "ok"
    assert seen.drifting_since == 2.0
    world.ask(1, shift=0.8, labelled=True)
    seen.look(0.0)
    assert seen.inputs == "drifting"
    assert seen.drifting_since == 2.0
    assert seen.labelled_since(2.0) == WINDOW
    world.ask(3)
    seen.look(0.0)
    assert seen.inputs == "ok"
    assert seen.drifting_since is None


def test_labels_that_come_late_tell_that_accuracy_falls(engine: Engine, world: World, baseline: Baseline) -> None:
    seen = watch(engine, world, baseline)
    world.ask(1, lie=True)
    seen.look(0.0)
    assert (seen.accuracy, seen.inputs) == ("unknown", "ok")
    answers = [Label(request_id="r0", sample=index, label=2) for index in range(WINDOW)]
    world.labels.add("net", answers)
    seen.look(0.0)
    assert seen.accuracy == "falling"
    assert seen.live_accuracy.labelled == WINDOW


def test_labels_from_before_a_drift_do_not_say_that_it_is_harmless(
    engine: Engine, world: World, baseline: Baseline
) -> None:
    seen = watch(engine, world, baseline)
    for _ in range(2):
        world.ask(1, labelled=True)
    seen.look(0.0)
    assert seen.accuracy == "ok"
    # Part of the first drifting window may be from before the change.
    world.ask(1, shift=0.8, labelled=True)
    world.ask(1, shift=0.8)
    seen.look(0.0)
    assert (seen.inputs, seen.accuracy) == ("drifting", "unknown")
    assert watch(engine, world, baseline).accuracy == "unknown"
    world.ask(1, shift=0.8, labelled=True)
    seen.look(0.0)
    assert seen.accuracy == "ok"
    world.ask(1, shift=0.8, labelled=True, lie=True)
    seen.look(0.0)
    assert seen.accuracy == "falling"


def test_damage_shows_against_the_parent_alone(engine: Engine, world: World, baseline: Baseline) -> None:
    seen = watch(engine, world, baseline)
    world.ask(2, damage=True)
    seen.look(0.0)
    assert seen.agreement == "falling"


def test_a_release_without_a_baseline_is_unknown_but_its_labels_are_joined(engine: Engine, world: World) -> None:
    seen = watch(engine, world, None)
    world.ask(2, shift=3.0, labelled=True)
    seen.look(0.0)
    assert (seen.inputs, seen.accuracy) == ("unknown", "unknown")
    assert seen.live_accuracy.labelled == WINDOW
    assert seen.coverage() == 1.0


def test_what_was_seen_outlives_the_service(engine: Engine, world: World, baseline: Baseline) -> None:
    before = watch(engine, world, baseline)
    world.ask(2, shift=0.8)
    before.look(0.0)
    assert before.inputs == "drifting"
    world.ask(1, shift=0.8, labelled=True)
    after = watch(engine, world, baseline)
    assert (after.inputs, after.drifting_since, after.windows) == ("drifting", 1.0, 2)
    assert after.look(0.0) == 1
    assert after.labelled_since(0.0) == WINDOW
    assert watch(engine, world, baseline).look(0.0) == 0


def test_a_new_normal_is_quiet_and_asks_for_no_less_accuracy(engine: Engine, world: World, baseline: Baseline) -> None:
    before = watch(engine, world, baseline)
    assert before.accepted() is None
    world.ask(10, shift=0.5, labelled=True)
    for _ in range(3):
        before.look(0.0)
    assert before.inputs == "drifting"
    renewed = watch(engine, world, baseline).accepted()
    assert renewed is not None
    assert (renewed.accuracy, renewed.calibration) == (baseline.accuracy, baseline.calibration)
    after = watch(engine, world, renewed, "second")
    assert (after.inputs, after.windows, after.drifting_since) == ("unknown", 0, None)
    world.ask(4, shift=0.5)
    after.look(0.0)
    assert (after.inputs, after.agreement) == ("ok", "ok")
    world.ask(2, shift=1.3)
    after.look(0.0)
    assert after.inputs == "drifting"


def test_labels_for_what_was_judged_before_the_restart_still_count(
    engine: Engine, world: World, baseline: Baseline
) -> None:
    before = watch(engine, world, baseline)
    world.ask(1, labelled=True)
    before.look(0.0)
    after = watch(engine, world, baseline)
    after.look(0.0)
    assert after.live_accuracy.labelled == WINDOW
    assert after.accuracy == before.accuracy == "ok"


def test_a_window_whose_judgement_failed_is_judged_at_the_next_look(
    engine: Engine, world: World, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(engine, world, baseline)
    world.ask(2, labelled=True)
    with monkeypatch.context() as patch:
        # The disk is full, say.
        patch.setattr(ReleaseWatch, "_keep", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            seen.look(0.0)
    assert (seen.windows, seen.live_accuracy.labelled) == (0, 0)
    assert seen.look(0.0) == 2
    assert (seen.windows, seen.coverage(), seen.labelled_since(0.0)) == (2, 1.0, 2 * WINDOW)


def test_a_release_made_again_is_watched_anew_and_that_outlives_the_service(
    engine: Engine, world: World, baseline: Baseline
) -> None:
    before = watch(engine, world, baseline)
    world.ask(3, shift=0.8, labelled=True, lie=True)
    before.look(0.0)
    assert (before.inputs, before.accuracy) == ("drifting", "falling")
    world.ask(1, shift=0.8)  # captured before the release, and not judged yet
    released = world.requests + 0.5
    anew = watch(engine, world, baseline, since=released)
    assert anew.look(0.0) == 0
    assert (anew.inputs, anew.accuracy, anew.windows, anew.drifting_since) == ("unknown", "unknown", 0, None)
    assert anew.coverage() == 0.0
    world.ask(2, labelled=True)
    assert anew.look(0.0) == 2
    after = watch(engine, world, baseline, since=released)
    after.look(0.0)
    assert (after.inputs, after.accuracy, after.windows) == ("ok", "ok", 2)


def test_a_window_of_nothing_but_broken_records_is_remembered(engine: Engine, world: World, baseline: Baseline) -> None:
    world.ask(1, shift=np.nan)
    assert watch(engine, world, baseline, since=0.5).look(50.0) == 1
    after = watch(engine, world, baseline, since=0.5)
    assert (after.broken, after.windows) == (True, 1)
