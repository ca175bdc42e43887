"""What watching costs the watcher: small records through collector, feed and judgement, by the million.

The monitor runs in a process of its own, as it does live; this one writes segments with the writer that Triton's model
process uses. Time is CPU time: a busy machine does not count.

    .venv/bin/python benchmarks/loop/collector.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from leanloop.core.files import read_json, write_json
from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.collect import Collector
from leanloop.monitoring.database import open_database
from leanloop.monitoring.feed import Feed
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.judge.features import Arrays
from leanloop.monitoring.labels import Label, Labels
from leanloop.monitoring.retention import clean_up
from leanloop.monitoring.served import KeptBaseline
from leanloop.monitoring.watch import ReleaseWatch, taken_rows
from leanloop.serving import ModelSpec, TensorSpec
from leanloop.serving.capture_format import SUFFIX, Capture, Record

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import topic

COLUMNS, CLASSES = 8, 3
SPEC = ModelSpec(
    name="tabular",
    inputs=(TensorSpec(name="x", shape=(COLUMNS,)),),
    outputs=(TensorSpec(name="logits", shape=(CLASSES,)),),
)
VERSION = 2

SPEED_RECORDS, SPEED_SEGMENT = 100_000, 10_000
"""A segment is 2 s of 5,000 records/s."""

RECORDS, CHUNK, MEASURED_EVERY = 1_000_000, 2_000, 100_000
"""A chunk is one segment, and as many windows as the monitor judges at one look."""
SETTLED = 300_000

RECORDS_PER_SECOND = 10.0
"""Of the records' own clock: the million takes more than a day of it, so that what is old is forgotten."""
KEEP_DAYS, QUOTA_BYTES = 0.25, 16 << 20
LABELLED = 10
"""Every tenth record gets a label, when its window has been judged."""
CLEAN_UP_LOOKS = 50

LEAST_PER_SECOND, MOST_GROWTH = 5_000, 5.0


def figures(out: Path, seed: int) -> list[Figure]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="leanloop-collector-") as name:
        speed = collector_speed(Path(name) / "speed", seed)
        memory = monitor_memory(Path(name) / "memory", seed)
    write_json(out / f"collector-{seed}.json", {"speed": speed, "memory": memory})
    at = dict(zip(memory["records"], memory["rss_bytes"], strict=True))
    growth = 100 * (at[RECORDS] / at[SETTLED] - 1)
    cpu = memory["cpu_seconds"]
    judged = f"{memory['windows']} windows judged, {memory['skipped']} skipped"
    return [
        Figure("collector: small records per CPU second", speed["per_second"], "records/s", at_least=LEAST_PER_SECOND),
        Figure(f"monitor: memory from {SETTLED:,} to {RECORDS:,} records", growth, "%", at_most=MOST_GROWTH),
        Figure("  in the end", at[RECORDS] / 2**20, "MiB"),
        Figure(f"monitor: CPU per million small records ({judged})", sum(cpu.values()), "s"),
        *(Figure(f"  of which {name}", seconds, "s") for name, seconds in cpu.items()),
    ]


def logits(inputs: Arrays) -> np.ndarray:
    """A parent that is sure of little: linear."""
    weights = np.random.default_rng(7).normal(size=(COLUMNS, CLASSES))
    return np.asarray(inputs["x"] @ weights, dtype=np.float32)


def drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, [count, columns], and what the release answers: its parent's logits, not quite."""
    x = rng.normal(size=(count, COLUMNS)).astype(np.float32)
    return x, (logits({"x": x}) + rng.normal(0, 0.05, (count, CLASSES))).astype(np.float32)


def write_chunk(folder: Path, rng: np.random.Generator, count: int, first: int) -> None:
    """One segment of single-sample requests, whose ids tell their number."""
    capture = Capture(folder, rate=1.0, queue_records=count, segment_bytes=1 << 30, segment_seconds=600.0)
    inputs, outputs = drawn(rng, count)
    prefix = uuid.UUID(int=0).hex[:24]
    for row in range(count):
        at = (first + row) / RECORDS_PER_SECOND
        x, y = inputs[row : row + 1], outputs[row : row + 1]
        capture.offer(Record(f"{prefix}{first + row:08d}", SPEC.name, VERSION, at, 0.1, {"x": x}, {"logits": y}))
    capture.close()
    assert capture.counters.captured == count, "nothing is dropped here"


def collector_speed(folder: Path, seed: int) -> dict[str, Any]:
    """Records per CPU second of `Collector.collect`."""
    rng = np.random.default_rng(seed)
    for first in range(0, SPEED_RECORDS, SPEED_SEGMENT):
        write_chunk(folder / "segments", rng, SPEED_SEGMENT, first)
    collector = Collector(folder / "segments", folder / "rows")
    started = time.process_time()
    rows = collector.collect()
    seconds = time.process_time() - started
    assert rows == SPEED_RECORDS, "every record is one row"
    return {"records": rows, "cpu_seconds": seconds, "per_second": rows / seconds}


def monitor_memory(folder: Path, seed: int) -> dict[str, Any]:
    """Feed a million records to a monitor in a process of its own; one segment is always ready."""
    staging, segments, result = folder / "staging", folder / "segments", folder / "result.json"
    segments.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    monitor = subprocess.Popen([sys.executable, __file__, str(folder), str(seed)])
    try:
        for first in range(0, RECORDS, CHUNK):
            write_chunk(staging, rng, CHUNK, first)
            while any(segments.glob(f"*{SUFFIX}")) and monitor.poll() is None:
                time.sleep(0.005)
            for path in staging.glob(f"*{SUFFIX}"):
                path.rename(segments / path.name)
        if monitor.wait(timeout=60) != 0:
            raise RuntimeError(f"the monitor ended with status {monitor.returncode}")
    finally:
        monitor.kill()
        monitor.wait()
    found: dict[str, Any] = read_json(result)
    return found


def be_monitor(folder: Path, seed: int) -> None:
    """The monitor's process: what `leanloop.monitoring.loop` does with rows, without the servers."""
    settings = MonitoringSettings()
    engine = open_database(f"sqlite:///{folder / 'loop.db'}")
    labels, rows = Labels(engine), folder / "rows"
    collector = Collector(folder / "segments", rows)
    feed = Feed(rows, SPEC, VERSION, settings.window, 1e12, taken_rows(engine, SPEC.name, VERSION))
    x, output = drawn(np.random.default_rng(seed + 1), 5_000)
    parent = logits({"x": x})
    baseline = Baseline.fit({"x": x}, output, parent, parent.argmax(axis=1), task="classification")
    watch = ReleaseWatch(engine, settings, feed, KeptBaseline("one", baseline), labels, logits)
    parent_process = os.getppid()
    me, prefix = psutil.Process(), uuid.UUID(int=0).hex[:24]
    cpu = dict.fromkeys(("collecting", "judging", "labels", "cleaning up"), 0.0)
    records, rss, done, looks = [0], [me.memory_info().rss], 0, 0
    while done < RECORDS:
        started = time.process_time()
        new = collector.collect()
        cpu["collecting"] += time.process_time() - started
        if not new:
            if os.getppid() != parent_process:
                sys.exit("the process that writes segments has ended")
            time.sleep(0.002)
            continue
        now = (done + new) / RECORDS_PER_SECOND
        started = time.process_time()
        watch.look(now)
        cpu["judging"] += time.process_time() - started
        started = time.process_time()
        told = [Label(request_id=f"{prefix}{number:08d}", label=0) for number in range(done, done + new, LABELLED)]
        labels.add(SPEC.name, told, received=now)
        cpu["labels"] += time.process_time() - started
        done, looks = done + new, looks + 1
        if looks % CLEAN_UP_LOOKS == 0:
            started = time.process_time()
            clean_up(rows, engine, quota_bytes=QUOTA_BYTES, keep_days=KEEP_DAYS, now=now)
            cpu["cleaning up"] += time.process_time() - started
        if done % MEASURED_EVERY == 0:
            records.append(done)
            rss.append(me.memory_info().rss)
    write_json(
        folder / "result.json",
        {
            "records": records,
            "rss_bytes": rss,
            "cpu_seconds": cpu,
            "windows": watch.windows,
            "skipped": feed.skipped,
            "files_kept": sum(1 for _ in rows.rglob("*.parquet")),
        },
    )


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        sys.exit(be_monitor(Path(sys.argv[1]), int(sys.argv[2])))
    sys.exit(topic.main(figures, __doc__))
