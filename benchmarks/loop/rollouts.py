"""Versions come and go under constant load: no request fails, every answer is right, and the way back is short.

The original serves; its INT8 version is promoted and rolled back again and again. Clients in a process of their own ask
without a pause, and compare each answer with what its version answers in-process.

    .venv/bin/python benchmarks/loop/rollouts.py
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leanloop.core.errors import ServingError
from leanloop.core.files import write_json
from leanloop.serving import (
    Answer,
    Golden,
    Journal,
    ModelRepository,
    Package,
    Ports,
    TritonClient,
    TritonHome,
    TritonServer,
    promote,
    roll_back,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import served, topic

if TYPE_CHECKING:
    from multiprocessing import SimpleQueue

ROUNDS = 20
"""Promotions, and as many roll-backs."""
CLIENTS = 4
STAY_SECONDS = 0.3
"""How long each version answers before the next switch."""
BAKE = timedelta(hours=1)
START_SECONDS = 60.0

MOST_ROLLBACK_MS = 100.0


@dataclass
class Told:
    """What the clients saw.

    Attributes:
        answered: How often each version answered.
        failures: What was refused, or wrong.
        slowest_ms: The longest that a client waited.
    """

    answered: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0


def figures(out: Path, seed: int) -> list[Figure]:
    """All figures; nothing is drawn by chance."""
    models = served.make(out)
    with tempfile.TemporaryDirectory(prefix="leanloop-rollouts-") as name, ExitStack() as stack:
        folder = Path(name)
        repository, journal = ModelRepository(folder / "models"), Journal(folder)
        server = stack.enter_context(TritonServer(TritonHome.find(), repository.root, Ports.free(), folder))
        client = stack.enter_context(TritonClient(server.http_url, server.grpc_url))

        def deploy(*packages: Package) -> None:
            with journal.begin(models.spec.name, packages[-1].artifact_id) as rollout:
                rollout = journal.move(rollout, "validated")
                promote(client, repository, journal, rollout, models.spec, packages, served.CHOICE, bake=BAKE)

        deploy(models.original)
        promoted_ms, rolled_back_ms = [], []
        with clients(server.grpc_url, models.spec.name, {1: models.original.golden, 2: models.int8.golden}) as result:
            for _ in range(ROUNDS):
                time.sleep(STAY_SECONDS)
                began = time.perf_counter()
                deploy(models.original, models.int8)
                promoted_ms.append(1e3 * (time.perf_counter() - began))
                time.sleep(STAY_SECONDS)
                done = roll_back(client, repository, journal, models.spec.name, "the benchmark asks for it")
                assert done.rollback_ms is not None, "it has ended"
                rolled_back_ms.append(done.rollback_ms)
        told = result()
    write_json(
        out / f"rollouts-{seed}.json",
        {
            "promoted_ms": promoted_ms,
            "rolled_back_ms": rolled_back_ms,
            "answered": {str(version): count for version, count in told.answered.items()},
            "failures": told.failures[:100],
            "slowest_ms": told.slowest_ms,
        },
    )
    back_ms = float(np.median(rolled_back_ms))
    switches = f"{ROUNDS} promotions and {ROUNDS} roll-backs"
    return [
        Figure(f"rollouts: failed requests during {switches}", len(told.failures), "requests", at_most=0),
        Figure(f"  requests of {CLIENTS} clients in all", told.answered.total() + len(told.failures), "requests"),
        Figure("  of which the promoted version answered", told.answered[2], "requests", at_least=1),
        Figure("  longest that a client waited", told.slowest_ms, "ms"),
        Figure("rollouts: roll-back once decided, median", back_ms, "ms", at_most=MOST_ROLLBACK_MS),
        Figure("  worst", max(rolled_back_ms), "ms"),
        Figure("  promotion, loading included, median", float(np.median(promoted_ms)), "ms"),
    ]


@contextmanager
def clients(url: str, model: str, golden: dict[int, Golden]) -> Iterator[Callable[[], Told]]:
    """Clients in a process of their own, which ask until the block is left; yields what gives their report then."""
    spawn = multiprocessing.get_context("spawn")
    started, ended, reports = spawn.Event(), spawn.Event(), spawn.SimpleQueue()
    process = spawn.Process(target=ask_all, args=(url, model, golden, started, ended, reports), daemon=True)
    process.start()
    if not started.wait(START_SECONDS):
        raise TimeoutError("the clients did not start")
    try:
        yield reports.get
    finally:
        ended.set()


def ask_all(
    url: str, model: str, golden: dict[int, Golden], started: Event, ended: Event, reports: SimpleQueue[Told]
) -> None:
    """The clients' process."""
    told = [Told() for _ in range(CLIENTS)]
    threads = [threading.Thread(target=ask, args=(url, model, golden, ended, one)) for one in told]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()
    total = Told(slowest_ms=max(one.slowest_ms for one in told))
    for one in told:
        total.answered += one.answered
        total.failures += one.failures
    reports.put(total)


def ask(url: str, model: str, golden: dict[int, Golden], ended: Event, told: Told) -> None:
    """One client."""
    one = {name: values[:1] for name, values in golden[1].inputs.items()}
    with TritonClient("", url) as client:
        send = client.prepare(model, one)
        while not ended.is_set():
            began = time.perf_counter()
            try:
                answer = send(uuid.uuid4().hex)
                wrong = wrong_in(answer, golden[answer.version])
            except ServingError as error:
                wrong = str(error)
            told.slowest_ms = max(told.slowest_ms, 1e3 * (time.perf_counter() - began))
            if wrong:
                told.failures.append(wrong)
            else:
                told.answered[answer.version] += 1


def wrong_in(answer: Answer, golden: Golden) -> str:
    """What is wrong with the answer to the first golden query; empty when nothing is."""
    for name, values in golden.outputs.items():
        far = float(np.abs(answer.outputs[name] - values[:1]).max())
        # Triton may batch it with others' queries, where an integer model rounds otherwise.
        if not far <= golden.rough_tolerance * float(np.abs(values).max()):
            return f"version {answer.version} answers {name} {far:.3g} off"
    return ""


if __name__ == "__main__":
    sys.exit(topic.main(figures, __doc__))
