"""Latency in process: variants alternate in short blocks, so that a drifting machine hurts all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from leanloop.benchmark.statistics import bootstrap_interval, quantile_interval
from leanloop.bundle import Arrays
from leanloop.core.contracts import LatencyMeasurement
from leanloop.core.errors import MeasurementError
from leanloop.core.events import progress
from leanloop.core.measure_lock import measuring
from leanloop.core.settings import BenchmarkSettings
from leanloop.runtime import Session

WARM_WITHIN = 0.05
"""A variant is warm when the medians of two windows in a row agree within this share."""

_BUSY_AT_MOST = 1.25
"""Busy threads over threads given, above which something else than the variant's own threads computes."""

_WARMUP_WINDOWS = 8
_CALLS_AT_LEAST = 3


@dataclass(frozen=True)
class Block:
    """Consecutive calls of one variant.

    Attributes:
        calls_ms: Duration of each call.
        cpu_share: CPU seconds that the process used per second: the threads that were really busy.
    """

    calls_ms: np.ndarray
    cpu_share: float

    @property
    def median_ms(self) -> float:
        """Of the block's calls."""
        return float(np.median(self.calls_ms))


def quick_latency(session: Session, inputs: Arrays, *, seconds: float) -> float:
    """Median latency in milliseconds of one batch, while nothing of ours trains.

    Args:
        session: The model.
        inputs: One batch.
        seconds: How long to measure, after a warm-up of up to as long.
    """
    with measuring(), _without_garbage_collection():
        call = session.bound(inputs)
        _warm_up(call, seconds)
        return _block(call, seconds).median_ms


def quick_ratio(session: Session, reference: Session, inputs: Arrays, *, rounds: int, seconds: float) -> float:
    """How many times as long as a reference's a model's call takes, while nothing of ours trains.

    Others' work on the machine comes and goes: blocks of the two follow each other, and the median of the pairs counts.

    Args:
        session: The model.
        reference: What it is compared with.
        inputs: One batch.
        rounds: Pairs of blocks.
        seconds: Per block.
    """
    with measuring(), _without_garbage_collection():
        calls = [one.bound(inputs) for one in (session, reference)]
        for call in calls:
            _warm_up(call, rounds * seconds)
        pairs = [[_block(call, seconds).median_ms for call in calls] for _ in range(rounds)]
    return float(np.median([mine / other for mine, other in pairs]))


def compare_latency(
    sessions: Mapping[str, Session],
    samples: Arrays,
    settings: BenchmarkSettings,
    batch_sizes: Sequence[int],
    *,
    seed: int = 0,
) -> dict[str, list[LatencyMeasurement]]:
    """Measure variants against each other.

    For each batch size: all are warmed up, then in every round each runs for one block, in an order drawn anew.

    Args:
        sessions: By variant id.
        samples: Real inputs; repeated when a batch is larger.
        settings: How many blocks, how long.
        batch_sizes: At which to measure.
        seed: Of the order and of the intervals.

    Returns:
        By variant id, one measurement per batch size.

    Raises:
        MeasurementError: A variant used more threads than it was given.
    """
    found: dict[str, list[LatencyMeasurement]] = {name: [] for name in sessions}
    total = len(batch_sizes) * (settings.blocks + 1)
    for index, batch_size in enumerate(batch_sizes):
        inputs = batch_of(samples, batch_size)
        done = index * (settings.blocks + 1)
        with measuring(), _without_garbage_collection():
            progress(done, total, f"warming up at batch {batch_size}")
            calls = {name: session.bound(inputs) for name, session in sessions.items()}
            for call in calls.values():
                _warm_up(call, settings.warmup_seconds)
            blocks: dict[str, list[Block]] = {name: [] for name in calls}
            for number, order in enumerate(rounds(list(calls), settings.blocks, seed), start=1):
                for name in order:
                    blocks[name].append(_block(calls[name], settings.block_seconds))
                progress(done + 1 + number, total, f"measuring at batch {batch_size}")
        for name, measured in blocks.items():
            _check_threads(name, measured, int(sessions[name].description["threads"]))
            found[name].append(summarise(measured, batch_size, settings.confidence, seed))
    return found


def rounds(names: Sequence[str], count: int, seed: int) -> Iterator[list[str]]:
    """All names in a new random order, ``count`` times; the same seed gives the same orders."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield [names[index] for index in rng.permutation(len(names))]


def batch_of(samples: Arrays, batch_size: int) -> Arrays:
    """One contiguous batch of real samples, repeated from the start when there are too few."""
    count = len(next(iter(samples.values())))
    rows = np.arange(batch_size) % count
    return {name: np.ascontiguousarray(values[rows]) for name, values in samples.items()}


def summarise(blocks: Sequence[Block], batch_size: int, confidence: float, seed: int) -> LatencyMeasurement:
    """Percentiles and throughput with intervals over blocks."""
    medians = [block.median_ms for block in blocks]
    rates = [batch_size * 1e3 / float(block.calls_ms.mean()) for block in blocks]
    calls = [block.calls_ms for block in blocks]
    return LatencyMeasurement(
        batch_size=batch_size,
        p50_ms=bootstrap_interval(medians, np.median, confidence, seed),
        p99_ms=quantile_interval(calls, 0.99, confidence, seed),
        throughput=bootstrap_interval(rates, np.mean, confidence, seed),
        runs=sum(len(block.calls_ms) for block in blocks),
        block_medians_ms=tuple(medians),
    )


def _check_threads(name: str, blocks: Sequence[Block], threads: int) -> None:
    busy = float(np.median([block.cpu_share for block in blocks]))
    if busy > threads * _BUSY_AT_MOST:
        raise MeasurementError(
            "A variant kept more threads busy than it was given: its latency would not be comparable.",
            where=name,
            value=f"{busy:.2f} threads busy",
            fix=f"`goal.threads` is {threads}; does the model start threads of its own?",
        )


def _block(call: Callable[[], object], seconds: float) -> Block:
    # The first call finds the caches full of another variant's data; a server that runs one model never does.
    call()
    clock, durations = time.perf_counter_ns, []
    cpu, started = time.process_time_ns(), clock()
    deadline = started + int(seconds * 1e9)
    while True:
        before = clock()
        call()
        after = clock()
        durations.append(after - before)
        if after >= deadline and len(durations) >= _CALLS_AT_LEAST:
            break
    return Block(np.array(durations) / 1e6, (time.process_time_ns() - cpu) / (after - started))


def _warm_up(call: Callable[[], object], seconds: float) -> None:
    window = seconds / _WARMUP_WINDOWS
    previous = _block(call, window).median_ms
    for _ in range(_WARMUP_WINDOWS - 1):
        current = _block(call, window).median_ms
        if abs(current - previous) <= WARM_WITHIN * previous:
            return
        previous = current


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
