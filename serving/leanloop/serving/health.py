"""Health by real inference: the server's readiness stays true when a model's process has died."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from leanloop.core.errors import ServingError
from leanloop.serving.client import TritonClient, internal_id
from leanloop.serving.model_config import ModelConfig
from leanloop.serving.repository import ModelRepository


@dataclass(frozen=True)
class VersionHealth:
    """One version, as it answered a batch of zeros just now.

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


def check_health(client: TritonClient, repository: ModelRepository) -> tuple[VersionHealth, ...]:
    """Ask every version that the repository says is served.

    Raises:
        ServingError: The server itself does not answer, or a configuration cannot be read.
    """
    return check_versions(client, (config for model in repository.models() if (config := repository.config(model))))


def check_versions(client: TritonClient, configs: Iterable[ModelConfig]) -> tuple[VersionHealth, ...]:
    """Ask every version that these configurations say is served.

    Raises:
        ServingError: The server itself does not answer.
    """
    not_loaded = {(line.name, line.version): line.reason for line in client.index() if line.state != "READY"}
    return tuple(
        _ask(client, config.spec.name, version, not_loaded) for config in configs for version in config.versions
    )


def _ask(client: TritonClient, model: str, version: int, not_loaded: dict[tuple[str, int], str]) -> VersionHealth:
    start = time.perf_counter()
    problem = ""
    try:
        client.answer(model, client.zeros(model, version), version, internal_id())
    except ServingError as error:
        problem = not_loaded.get((model, version)) or str(error)
    milliseconds = (time.perf_counter() - start) * 1e3
    return VersionHealth(model, version, not problem, milliseconds, problem)
