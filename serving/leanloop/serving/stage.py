"""Staging: a scratch Triton of its own, where a model proves itself before it meets the one that serves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from leanloop.core.contracts import ServedMeasurement, ServingChoice
from leanloop.core.settings import GoalSettings, ServingSettings
from leanloop.serving.client import Arrays, TritonClient
from leanloop.serving.golden import check_golden
from leanloop.serving.home import TritonHome
from leanloop.serving.load import measure_served
from leanloop.serving.model_config import ModelConfig, ModelSpec
from leanloop.serving.process import Ports
from leanloop.serving.repository import ModelRepository, Package
from leanloop.serving.triton import TritonServer

_TIE = 0.97


@dataclass(frozen=True)
class TuningTrial:
    """One serving choice, and what it gave at the goal's load."""

    choice: ServingChoice
    measured: ServedMeasurement


class Stage:
    """A scratch Triton that has loaded packages as versions 1, 2, ... of a model, in the order given.

    Attributes:
        client: Of that server.
        config: What it serves now.
    """

    def __init__(self, client: TritonClient, repository: ModelRepository, config: ModelConfig) -> None:
        self.client = client
        self.config = config
        self._repository = repository

    @property
    def newest(self) -> int:
        """The last version that it serves; that of the last package, at first."""
        return self.config.versions[-1]

    def apply(self, choice: ServingChoice, version: int | None = None) -> None:
        """Serve one version alone, the newest without a number, with other instances or batching."""
        served = self.newest if version is None else version
        self.config = self.config.model_copy(update={"versions": (served,), "choice": choice})
        self.config.save(self._repository.folder(self.config.spec.name))
        self.client.load(self.config.spec.name)

    def measure(self, inputs: Arrays, *, concurrency: int, seconds: float) -> ServedMeasurement:
        """Closed-loop load on that version."""
        return measure_served(
            self.client.grpc_url,
            self.config.spec.name,
            self.newest,
            inputs,
            concurrency=concurrency,
            seconds=seconds,
        )


@contextmanager
def stage(settings: ServingSettings, spec: ModelSpec, packages: Sequence[Package], threads: int) -> Iterator[Stage]:
    """Load packages into a scratch Triton on free ports and check every golden answer of each.

    The server is ended, and its folder removed, when the block is left.

    Raises:
        ServingError: Triton does not come up, a package does not load, or answers wrongly.
    """
    home = TritonHome.find(settings.triton_home)
    choice = ServingChoice(instances=1, threads=threads, max_batch_size=settings.max_batch_size, queue_delay_us=0)
    with tempfile.TemporaryDirectory(prefix="leanloop-stage-") as name:
        repository = ModelRepository(Path(name) / "models")
        versions = tuple(range(1, len(packages) + 1))
        for version, package in zip(versions, packages, strict=True):
            repository.write_version(spec, version, package, threads)
        config = ModelConfig(spec=spec, versions=versions, choice=choice)
        config.save(repository.folder(spec.name))
        server = TritonServer(
            home, repository.root, Ports.free(), Path(name), start_timeout=settings.start_timeout_seconds
        )
        with server, TritonClient(server.http_url, server.grpc_url) as client:
            client.load(spec.name)
            for version, package in zip(versions, packages, strict=True):
                check_golden(client, spec.name, package.golden, batch_size=settings.max_batch_size, version=version)
            yield Stage(client, repository, config)


def tune(
    staged: Stage, goal: GoalSettings, settings: ServingSettings, samples: Arrays, *, seconds: float = 1.5
) -> tuple[ServingChoice, tuple[TuningTrial, ...]]:
    """Try instance counts and batching delays at the goal's load, and take the best.

    With one client there is never more than one request, so one instance without delay is all there is to
    try, judged by p50. With more clients throughput decides; within 3 % the one with fewer instances and less
    delay is taken.

    Args:
        staged: The newest version is tuned.
        goal: Gives batch size, concurrency and threads.
        settings: Gives instance counts, delays and the largest batch.
        samples: Real inputs, repeated as needed to fill the batch.
        seconds: To measure each choice.
    """
    indices = np.arange(goal.batch_size)
    batch = {name: np.take(array, indices, axis=0, mode="wrap") for name, array in samples.items()}
    single = goal.concurrency == 1
    instances = (1,) if single else sorted(set(settings.instances))
    delays = (0,) if single else sorted(set(settings.queue_delays_us))
    trials = []
    for delay, count in product(delays, instances):
        choice = ServingChoice(
            instances=count,
            threads=goal.threads,
            max_batch_size=settings.max_batch_size,
            queue_delay_us=delay,
        )
        staged.apply(choice)
        measured = staged.measure(batch, concurrency=goal.concurrency, seconds=seconds)
        trials.append(TuningTrial(choice, measured))
    enough = _TIE * max(trial.measured.throughput for trial in trials)
    good = [trial.choice for trial in trials if trial.measured.throughput >= enough]
    return min(good, key=lambda choice: (choice.instances, choice.queue_delay_us)), tuple(trials)
