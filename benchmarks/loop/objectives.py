"""A queue flood: every request computes as long as before, but waits its turn, and the latency objective burns.

The stack's own Triton and Prometheus serve and judge, with the product's rules on scaled-down windows. First one client
asks without a pause; then many do. Each request is a full batch, so that Triton cannot take two together, which would
change what one computes.

    .venv/bin/python benchmarks/loop/objectives.py
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leanloop.core.files import write_json
from leanloop.core.settings import Settings, load_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.monitoring import read_metrics, stack
from leanloop.monitoring.loop import LATENCY_ALERT
from leanloop.monitoring.prometheus import firing_alerts
from leanloop.runtime import open_session
from leanloop.serving import ModelConfig, Ports, repository
from leanloop.serving.load import ClosedLoop

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import served, topic

BATCH = 32
CLIENTS = 32
SLO_COMPUTES = 8.0
"""The objective, in compute times of a batch: far above one that waits for nobody, far below the flood's queue."""
WINDOW_SCALE = 0.01
"""Of the alerting windows: the fastest alert looks at 36 s and 4 s."""
CALM_SECONDS, MOST_FLOOD_SECONDS = 45.0, 120.0
SLICE_SECONDS = 1.0
"""Alerts are read once in this time."""

MOST_COMPUTE = 1.5


@dataclass(frozen=True)
class Phase:
    """One kind of load.

    Attributes:
        seconds: How long it went on.
        requests: Answered meanwhile.
        compute_ms: Mean compute time of a request.
        queue_ms: Mean time that a request waited before.
        alerts: About the model that fired in it.
    """

    seconds: float
    requests: int
    compute_ms: float
    queue_ms: float
    alerts: tuple[str, ...]


def figures(out: Path, seed: int) -> list[Figure]:
    """All figures; nothing is drawn by chance."""
    models = served.make(out)
    batch = models.batch(BATCH)
    with tempfile.TemporaryDirectory(prefix="leanloop-flood-") as name:
        slo_ms = SLO_COMPUTES * compute_ms(models, batch)
        settings = settings_of(Path(name), slo_ms)
        with serving(models, settings):
            calm = ask(settings, models.spec.name, batch, clients=1, seconds=CALM_SECONDS)
            flood = ask(
                settings, models.spec.name, batch, clients=CLIENTS, seconds=MOST_FLOOD_SECONDS, until=LATENCY_ALERT
            )
    write_json(out / f"objectives-{seed}.json", {"slo_ms": slo_ms, "calm": asdict(calm), "flood": asdict(flood)})
    slower = flood.compute_ms / calm.compute_ms
    return [
        Figure("flood: alerts before it", len(calm.alerts), "alerts", at_most=0),
        Figure(f"flood: {LATENCY_ALERT} fired", LATENCY_ALERT in flood.alerts, "alert", at_least=1),
        Figure(f"  windows at {WINDOW_SCALE:g} of their length: fired after", flood.seconds, "s"),
        Figure("  objective for p99", slo_ms, "ms"),
        Figure("  a request waited before", calm.queue_ms, "ms"),
        Figure("  a request waited in the flood", flood.queue_ms, "ms"),
        Figure("  a request computed before", calm.compute_ms, "ms"),
        Figure("flood: compute time of a request over before", slower, "x", at_most=MOST_COMPUTE),
    ]


def compute_ms(models: served.Served, batch: dict[str, Any], runs: int = 20) -> float:
    """Median time of a batch in this process."""
    session = open_session(models.original.files, models.original.folder, threads=served.CHOICE.threads)
    took = []
    try:
        for _ in range(runs):
            began = time.perf_counter()
            session.run(batch)
            took.append(1e3 * (time.perf_counter() - began))
    finally:
        session.close()
    return float(np.median(took))


def settings_of(folder: Path, slo_ms: float) -> Settings:
    """Of a workspace of its own, on free ports."""
    triton, others = Ports.free(), Ports.free()
    overrides = {
        "workspace": str(folder / "workspace"),
        "serving.http_url": f"127.0.0.1:{triton.http}",
        "serving.grpc_url": f"127.0.0.1:{triton.grpc}",
        "serving.metrics_url": f"127.0.0.1:{triton.metrics}",
        "monitoring.service_url": f"127.0.0.1:{others.http}",
        "monitoring.prometheus_url": f"127.0.0.1:{others.grpc}",
        "monitoring.alertmanager_url": "",
        "monitoring.slo.latency_p99_ms": str(math.ceil(slo_ms)),
        "monitoring.slo.window_scale": str(WINDOW_SCALE),
    }
    return with_absolute_paths(load_settings(topic.ROOT / "params.yaml", overrides), topic.ROOT)


@contextmanager
def serving(models: served.Served, settings: Settings) -> Iterator[None]:
    """The stack's Triton, which serves the original in batches of one request each, and its Prometheus."""
    choice = served.CHOICE.model_copy(update={"max_batch_size": BATCH})
    folder = repository(settings.serving, Workspace(settings).serving)
    version = folder.place(models.spec, models.original, choice.threads)
    ModelConfig(spec=models.spec, versions=(version,), choice=choice).save(folder.folder(models.spec.name))
    stack.up(settings, topic.ROOT, ("triton", "prometheus"))
    try:
        yield
    finally:
        stack.down(settings)


def ask(
    settings: Settings, model: str, batch: dict[str, Any], *, clients: int, seconds: float, until: str = ""
) -> Phase:
    """Closed-loop clients for so long, or until an alert about the model fires."""
    before, began = totals(settings, model), time.monotonic()
    alerts: set[str] = set()
    with ClosedLoop(settings.serving.grpc_url, model, 1, batch, clients) as loop:
        while time.monotonic() - began < seconds and until not in alerts:
            loop.record(SLICE_SECONDS)
            told = firing_alerts(settings.monitoring.prometheus_url)
            alerts |= {alert.name for alert in told if alert.model == model}
    took = time.monotonic() - began
    requests, compute, queue = (now - then for now, then in zip(totals(settings, model), before, strict=True))
    return Phase(took, int(requests), compute / requests, queue / requests, tuple(sorted(alerts)))


def totals(settings: Settings, model: str) -> tuple[float, float, float]:
    """Requests answered since the start, and their compute and queue times together, in milliseconds."""
    (row,) = (one for one in read_metrics(settings.serving.metrics_url) if one.model == model)
    return row.successes, row.successes * row.compute_ms, row.successes * row.queue_ms


if __name__ == "__main__":
    sys.exit(topic.main(figures, __doc__))
