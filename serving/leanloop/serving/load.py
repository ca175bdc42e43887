"""Served latency and throughput: closed-loop clients, each sending its next request when it has the answer.

A measurement holds the host-wide lock, so that training on this machine pauses meanwhile.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Self

import numpy as np

from leanloop.core.contracts import ServedMeasurement
from leanloop.core.errors import MeasurementError, ServingError
from leanloop.core.measure_lock import measuring
from leanloop.serving.client import Answer, Arrays, TritonClient, internal_id

WARMUP_SECONDS = 0.3


class ClosedLoop:
    """``concurrency`` gRPC clients that ask one model version the same prepared batch.

    Args:
        grpc_url: ``host:port``.
        model: Name of the model.
        version: Which version.
        inputs: One batch, by input name.
        concurrency: Number of clients, one thread and one connection each.
        live: Give each request an id of its own, as those have that may be captured.
    """

    def __init__(
        self, grpc_url: str, model: str, version: int, inputs: Arrays, concurrency: int, *, live: bool = False
    ) -> None:
        self._version = version
        self._live = live
        self._batch_size = len(next(iter(inputs.values())))
        self._clients = [TritonClient("", grpc_url) for _ in range(concurrency)]
        self._sends = [client.prepare(model, inputs, version) for client in self._clients]
        self._latencies: list[float] = []
        self._seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def warm_up(self) -> None:
        """Run for a moment without recording."""
        self._run(WARMUP_SECONDS)

    def record(self, seconds: float) -> ServedMeasurement:
        """Run and record; returns this run alone."""
        latencies, elapsed = self._run(seconds)
        self._latencies += latencies
        self._seconds += elapsed
        return self._measured(latencies, elapsed)

    def _run(self, seconds: float) -> tuple[list[float], float]:
        results: list[list[float]] = [[] for _ in self._sends]
        failures: list[ServingError] = []
        ours = internal_id()
        start = time.perf_counter()

        def loop(send: Callable[[str], Answer], latencies: list[float]) -> None:
            try:
                while (began := time.perf_counter()) - start < seconds:
                    send(uuid.uuid4().hex if self._live else ours)
                    latencies.append(time.perf_counter() - began)
            except ServingError as error:
                failures.append(error)

        threads = [threading.Thread(target=loop, args=pair) for pair in zip(self._sends, results, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise MeasurementError(
                "A request failed while the served model was measured.",
                where=f"version {self._version}, {len(self._sends)} clients",
                value=failures[0],
                fix="See Triton's log.",
            ) from failures[0]
        return [latency for one in results for latency in one], time.perf_counter() - start

    def measurement(self) -> ServedMeasurement:
        """All recorded runs together."""
        return self._measured(self._latencies, self._seconds)

    def _measured(self, latencies: list[float], seconds: float) -> ServedMeasurement:
        p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
        return ServedMeasurement(
            version=self._version,
            batch_size=self._batch_size,
            concurrency=len(self._sends),
            p50_ms=float(p50),
            p99_ms=float(p99),
            throughput=len(latencies) * self._batch_size / seconds,
            requests=len(latencies),
        )


def measure_served(
    grpc_url: str, model: str, version: int, inputs: Arrays, *, concurrency: int, seconds: float
) -> ServedMeasurement:
    """Latency and throughput of one version under closed-loop load.

    Args:
        grpc_url: ``host:port``.
        model: Name of the model.
        version: Which version.
        inputs: One batch, by input name; every request sends it.
        concurrency: Clients at once.
        seconds: How long to record, after a short warm-up.

    Raises:
        MeasurementError: A request failed.
    """
    with measuring(), ClosedLoop(grpc_url, model, version, inputs, concurrency) as loop:
        loop.warm_up()
        loop.record(seconds)
        return loop.measurement()


def compare_served(
    grpc_url: str,
    model: str,
    versions: tuple[int, ...],
    inputs: Arrays,
    *,
    concurrency: int,
    blocks: int,
    block_seconds: float,
) -> dict[int, ServedMeasurement]:
    """Measure versions in alternating blocks, so that a drifting machine hurts all alike; see `measure_served`."""
    with measuring():
        loops = [ClosedLoop(grpc_url, model, version, inputs, concurrency) for version in versions]
        try:
            for loop in loops:
                loop.warm_up()
            for _ in range(blocks):
                for loop in loops:
                    loop.record(block_seconds)
            return {version: loop.measurement() for version, loop in zip(versions, loops, strict=True)}
        finally:
            for loop in loops:
                loop.__exit__()
