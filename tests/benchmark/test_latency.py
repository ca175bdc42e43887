"""How latencies are taken: alternating, warm, locked, with the threads that were given."""

from __future__ import annotations

import gc
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from leanloop.benchmark import batch_of, compare_latency, latency, quick_latency
from leanloop.benchmark.latency import Block, _check_threads, rounds, summarise
from leanloop.bundle import Arrays
from leanloop.core.errors import MeasurementError
from leanloop.core.measure_lock import TrainingTurn
from leanloop.core.settings import BenchmarkSettings

SHORT = BenchmarkSettings(blocks=5, block_seconds=0.002, warmup_seconds=0.01)
SAMPLES = {"x": np.arange(12, dtype=np.float32).reshape(6, 2)}


@dataclass
class Recorder:
    """A session that writes down who is called."""

    name: str
    calls: list[str]
    batches: list[int] = field(default_factory=list)
    description: dict[str, str] = field(default_factory=lambda: {"threads": "1"})

    def run(self, inputs: Arrays) -> Arrays:
        return inputs

    def bound(self, inputs: Arrays) -> Callable[[], object]:
        self.batches.append(len(inputs["x"]))
        return lambda: self.calls.append(self.name)

    def close(self) -> None:
        self.calls.clear()


def test_every_round_has_every_variant_in_an_order_that_the_seed_fixes() -> None:
    names = ["a", "b", "c", "d"]
    orders = list(rounds(names, 20, seed=1))
    assert all(sorted(order) == names for order in orders)
    assert len({tuple(order) for order in orders}) > 5
    assert orders == list(rounds(names, 20, seed=1))
    assert orders != list(rounds(names, 20, seed=2))


def test_blocks_of_the_variants_alternate() -> None:
    calls: list[str] = []
    sessions = {name: Recorder(name, calls) for name in "abc"}
    found = compare_latency(sessions, SAMPLES, SHORT, [1, 8], seed=3)
    assert {name: session.batches for name, session in sessions.items()} == {name: [1, 8] for name in "abc"}
    measured = [name for name, _ in itertools.groupby(calls)]
    wanted = [name for order in rounds("abc", SHORT.blocks, 3) for name in order]
    # After the warm-ups come the rounds; neighbours of one name at the seam of two rounds read as one group.
    joined = [name for name, _ in itertools.groupby(wanted)]
    assert measured[-len(joined) :] == joined
    for name in "abc":
        for measurement, batch_size in zip(found[name], (1, 8), strict=True):
            assert measurement.batch_size == batch_size
            assert len(measurement.block_medians_ms) == SHORT.blocks
            assert measurement.p50_ms.value == pytest.approx(np.median(measurement.block_medians_ms))
            assert measurement.p99_ms.value >= measurement.p50_ms.low
    assert Counter(calls)["a"] > SHORT.blocks


def test_a_summary_is_of_the_blocks() -> None:
    blocks = [Block(np.array([2.0, 2.0, 8.0]), 1.0), *[Block(np.array([2.0, 2.0]), 1.0)] * 3]
    measurement = summarise(blocks, batch_size=4, confidence=0.95, seed=0)
    assert measurement.p50_ms.value == 2.0
    assert measurement.runs == 9
    assert measurement.throughput.value == pytest.approx(np.mean([1000.0, 2000.0, 2000.0, 2000.0]))
    assert measurement.block_medians_ms == (2.0, 2.0, 2.0, 2.0)


def test_a_variant_that_uses_more_threads_than_given_is_refused() -> None:
    blocks = [Block(np.ones(3), cpu_share) for cpu_share in (1.9, 2.0, 2.0)]
    _check_threads("greedy", blocks, threads=2)
    with pytest.raises(MeasurementError, match=r"greedy[\s\S]*2\.00 threads busy"):
        _check_threads("greedy", blocks, threads=1)


def test_nothing_trains_while_a_measurement_runs() -> None:
    calls: list[str] = []
    stop = threading.Event()
    trained = threading.Event()

    def train() -> None:
        turn = TrainingTurn()
        while not stop.is_set():
            with turn:
                calls.append("train")
            trained.set()
        turn.close()

    trainer = threading.Thread(target=train)
    trainer.start()
    assert trained.wait(60)
    try:
        quick_latency(Recorder("measure", calls), SAMPLES, seconds=0.02)
    finally:
        stop.set()
        trainer.join()
    first, last = calls.index("measure"), len(calls) - 1 - calls[::-1].index("measure")
    assert "train" in calls[:first]
    assert "train" not in calls[first:last]


def test_garbage_is_not_collected_while_timing_and_is_again_after() -> None:
    states = []

    class Watcher(Recorder):
        def bound(self, inputs: Arrays) -> Callable[[], object]:
            return lambda: states.append(gc.isenabled())

    assert quick_latency(Watcher("watch", []), SAMPLES, seconds=0.005) >= 0
    assert not any(states)
    assert gc.isenabled()


def test_a_large_batch_repeats_the_samples() -> None:
    batch = batch_of(SAMPLES, 8)["x"]
    assert batch.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(batch, np.concatenate([SAMPLES["x"], SAMPLES["x"][:2]]))


class Machine:
    """A clock that only calls move, on a machine that becomes two times slower every now and then."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    process_time_ns = perf_counter_ns

    def session(self, milliseconds: float) -> Any:
        def call() -> None:
            slower = 2 if self.now // 100_000_000 % 2 else 1
            self.now += int(milliseconds * slower * 1e6)

        return SimpleNamespace(bound=lambda inputs: call)


def test_a_ratio_does_not_feel_the_machines_mood(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(latency, "time", machine)
    found = latency.quick_ratio(machine.session(3.0), machine.session(2.0), {}, rounds=9, seconds=0.03)
    assert found == pytest.approx(1.5, rel=0.01)
