"""What watching costs those who ask: capture at 10 %, and Triton's latency quantiles.

One INT8 model is served three times: as it is, with capture, and by a second Triton that publishes quantiles. The same
closed-loop clients ask two of them in alternating blocks (A B, B A, ...), each request under an id of its own. The
figures are medians over pairs of blocks, with bootstrap intervals: what slows the machine for longer than a block hurts
both. Servers are started anew for each quarter of the pairs: two processes that do the very same differ by a few per
cent as long as they live. The server's CPU time per request, where others' work does not count, stands beside them.

    .venv/bin/python benchmarks/loop/capture.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from leanloop.benchmark.statistics import ratio_interval
from leanloop.core.files import write_json
from leanloop.core.measure_lock import measuring
from leanloop.serving import (
    CaptureChoice,
    ModelConfig,
    ModelRepository,
    Ports,
    TritonClient,
    TritonHome,
    TritonServer,
)
from leanloop.serving.capture_format import SUFFIX, Counters, read_segment
from leanloop.serving.load import ClosedLoop

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import served, topic

Side = Literal["plain", "captured", "summaries"]

RATE = 0.1
ROUNDS = 4
"""How often the servers are started."""


class Load(NamedTuple):
    """What two sides are asked in turn, in each round.

    Attributes:
        other: The side that is compared with the plain one.
        size: Samples per request.
        clients: Each waits for its answer before it asks again.
        pairs: Of blocks.
    """

    other: Side
    size: int
    clients: int
    pairs: int

    def __str__(self) -> str:
        what = "capture" if self.other == "captured" else "quantiles"
        return f"{what}, batch {self.size}, {self.clients} clients"


LOADS = (Load("captured", 1, 4, 36), Load("captured", 32, 4, 16), Load("summaries", 1, 4, 4))
"""On two shared cores a pair's ratio scatters by a tenth, and the bars are a few per cent: 30 pairs decide nothing."""

BLOCK_SECONDS = 2.0
"""Segments are 2 s long, and begin with a block's unrecorded start: each block holds the end of one, as any 2 s do."""

MOST_THROUGHPUT_LOST, MOST_P99_LONGER = 3.0, 5.0


@dataclass(frozen=True)
class Host:
    """Where each side is served, by gRPC and by which process, and where captured requests go."""

    urls: dict[Side, str]
    processes: dict[Side, psutil.Process]
    segments: Path


def figures(out: Path, seed: int) -> list[Figure]:
    """All figures; the seed decides which side is asked first."""
    models = served.make(out)
    pairs: dict[str, list[dict[str, Any]]] = {str(load): [] for load in LOADS}
    kept = []
    for turn in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="leanloop-capture-") as folder:
            with serving(models, Path(folder), first=(turn + seed) % 2) as host, measuring():
                for load in LOADS:
                    pairs[str(load)] += alternate(host, load, models.batch(load.size), seed)
            # The servers have ended: all that was captured is written.
            kept.append(counters(host.segments))
    write_json(out / f"capture-{seed}.json", {"pairs": pairs, "counters": [one._asdict() for one in kept]})
    lines = [line for name, rows in pairs.items() for line in _lines(name, rows)]
    dropped = sum(one.dropped for one in kept)
    sampled = dropped + sum(one.captured + one.lost for one in kept)
    return [*lines, Figure("capture: dropped of the sampled requests", 100 * dropped / sampled, "%")]


@contextmanager
def serving(models: served.Served, folder: Path, first: int) -> Iterator[Host]:
    """Two Tritons; one serves the model without (begun first: 0) and with capture, the other publishes quantiles."""
    host = Host({}, {}, folder / "segments")
    capture = CaptureChoice(folder=str(host.segments), rate=RATE, quota_bytes=1 << 30)
    both: tuple[Side, Side] = ("plain", "captured")
    tritons: dict[str, tuple[Side, ...]] = {"one": (both[first], both[1 - first]), "two": ("summaries",)}
    with ExitStack() as stack:
        for name, sides in tritons.items():
            repository = ModelRepository(folder / name / "models")
            server = stack.enter_context(
                TritonServer(
                    TritonHome.find(), repository.root, Ports.free(), folder / name, summaries="summaries" in sides
                )
            )
            client = stack.enter_context(TritonClient(server.http_url, server.grpc_url))
            for side in sides:
                spec = models.spec.model_copy(update={"name": side})
                version = repository.place(spec, models.int8, served.CHOICE.threads)
                ModelConfig(
                    spec=spec,
                    versions=(version,),
                    choice=served.CHOICE,
                    capture=capture if side == "captured" else None,
                ).save(repository.folder(side))
                client.load(side)
                assert server.id is not None, "it was started"
                host.urls[side], host.processes[side] = server.grpc_url, psutil.Process(server.id.pid)
        yield host


def alternate(host: Host, load: Load, batch: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Pairs of blocks, plain and the other side; who is first alternates."""
    sides: tuple[Side, Side] = ("plain", load.other)
    pairs: list[dict[str, Any]] = []
    last, rest = None, 0.0
    with ExitStack() as stack:
        loops = {
            side: stack.enter_context(ClosedLoop(host.urls[side], side, 1, batch, load.clients, live=True))
            for side in sides
        }
        for index in range(load.pairs):
            pair = {}
            for side in sides[:: 1 if (index + seed) % 2 == 0 else -1]:
                if side != last:
                    if last == "plain":
                        # A machine that has rested may be faster for a while: both sides begin rested alike.
                        time.sleep(rest)
                    else:
                        rest = _wait_written(host.segments)
                loops[side].warm_up()
                before = _cpu_seconds(host.processes[side])
                measured = loops[side].record(BLOCK_SECONDS)
                cpu_ms = 1e3 * (_cpu_seconds(host.processes[side]) - before) / measured.requests
                pair[side] = measured.model_dump() | {"cpu_ms": cpu_ms}
                last = side
            pairs.append({"plain": pair["plain"], "other": pair[load.other]})
    return pairs


def _cpu_seconds(server: psutil.Process) -> float:
    """Of Triton and its model processes, since they began."""
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _wait_written(segments: Path) -> float:
    """Wait until no segment is under way, whose end would fall into the other side's block; returns the seconds."""
    started = time.monotonic()
    while any(segments.glob("*.part")):
        time.sleep(0.02)
    return time.monotonic() - started


def counters(segments: Path) -> Counters:
    """What the one process that captured had done when it ended."""
    newest = max(segments.glob(f"*{SUFFIX}"))
    return next(item for item in read_segment(newest) if isinstance(item, Counters))


def _lines(name: str, pairs: list[dict[str, Any]]) -> list[Figure]:
    throughput, p99, cpu = (
        ratio_interval([pair["other"][key] for pair in pairs], [pair["plain"][key] for pair in pairs])
        for key in ("throughput", "p99_ms", "cpu_ms")
    )
    judged = name.startswith("capture")
    lost = [100 * (1 - value) for value in (throughput.value, throughput.high, throughput.low)]
    longer, more = ([100 * (value - 1) for value in (one.value, one.low, one.high)] for one in (p99, cpu))
    lines = []
    for what, (value, low, high), bar in (
        ("throughput lost", lost, MOST_THROUGHPUT_LOST),
        ("p99 longer", longer, MOST_P99_LONGER),
        ("more CPU of the server", more, None),
    ):
        lines.append(Figure(f"{name}: {what}", value, "%", at_most=bar if judged else None))
        lines.append(Figure("  95 % interval, from", low, "%"))
        lines.append(Figure("  95 % interval, to", high, "%"))
    return lines


if __name__ == "__main__":
    sys.exit(topic.main(figures, __doc__))
