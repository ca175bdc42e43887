"""Health by real inference: the server's readiness stays true when a model's process has died."""

from __future__ import annotations

import time
from dataclasses import dataclass

from leanloop.core.errors import ServingError
from leanloop.serving.client import TritonClient


@dataclass(frozen=True)
class VersionHealth:
    """One loaded version, as it answered a batch of zeros just now.

    Attributes:
        model: Its name.
        version: Its number.
        answers: Whether it did.
        milliseconds: How long it took, failure included.
        problem: Why not; empty when it answers.
    """

    model: str
    version: int
    answers: bool
    milliseconds: float
    problem: str


def check_health(client: TritonClient) -> tuple[VersionHealth, ...]:
    """Ask every version that the server has loaded or tried to load.

    Raises:
        ServingError: The server itself does not answer.
    """
    return tuple(
        _ask(client, line.name, line.version)
        if line.state == "READY"
        else VersionHealth(line.name, line.version, answers=False, milliseconds=0.0, problem=line.reason)
        for line in client.index()
        if line.reason != "unloaded"
    )


def _ask(client: TritonClient, model: str, version: int) -> VersionHealth:
    start = time.perf_counter()
    try:
        client.answer(model, client.zeros(model, version), version)
        problem = ""
    except ServingError as error:
        problem = str(error)
    milliseconds = (time.perf_counter() - start) * 1e3
    return VersionHealth(model, version, not problem, milliseconds, problem)
