"""The Triton that is watched: asked how it does, and mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leanloop.core.errors import ServingError
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.judge.features import Arrays
from leanloop.monitoring.served import Served
from leanloop.monitoring.triton_metrics import VersionMetrics, read_metrics
from leanloop.serving import ModelConfig, ModelRepository, TritonClient, VersionHealth, check_roughly, stack
from leanloop.serving.health import check_versions
from leanloop.serving.journal import Journal, Rollout
from leanloop.serving.rollout import Mended, enforce_deadlines, finish_bake, recover, roll_back


@dataclass(frozen=True)
class Probe:
    """One look at the server.

    Attributes:
        live: Whether it answers at all.
        versions: Every version that should be served, asked a real inference; empty when it is not live.
        metrics: Its counters; empty when it is not live.
        starting: Whether it is just being started or ended: what does not answer is no fault then.
    """

    live: bool
    versions: tuple[VersionHealth, ...]
    metrics: tuple[VersionMetrics, ...]
    starting: bool = False


class Server:
    """The Triton of a workspace.

    Args:
        settings: With absolute paths.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.serving
        self._folder: Path = Workspace(settings).serving
        self.repository: ModelRepository = stack.repository(settings.serving, self._folder)
        self.journal = Journal(self._folder)

    def _client(self) -> TritonClient:
        return stack.connect(self._settings, self._folder)

    def probe(self) -> Probe:
        """Ask everything that should answer."""
        starting = stack.is_starting(self._folder)
        try:
            with self._client() as client:
                versions = check_versions(client, self._configs())
            return Probe(True, versions, read_metrics(self._settings.metrics_url), starting)
        except ServingError:
            # That nothing answers is what was asked for.
            return Probe(False, (), (), starting)

    def _configs(self) -> Iterator[ModelConfig]:
        for model in self.repository.models():
            try:
                config = self.repository.config(model)
            except ServingError:
                continue  # the look at this model says so; the server and the other models answer for themselves
            if config is not None:
                yield config

    def answers_rightly(self, served: Served) -> bool | None:
        """Whether the champion gives its golden answers; None when none were kept, or it does not answer at all."""
        golden = self.journal.golden(served.model, served.version)
        if golden is None:
            return None
        with self._client() as client:
            if not client.is_serving(served.model, served.version):
                return None
            try:
                check_roughly(client, served.model, golden, version=served.version)
            except ServingError:
                return False
            return True

    def ask(self, served: Served, version: int, inputs: Arrays) -> np.ndarray | None:
        """A version's first output for some inputs, [asked, ...]; None when it does not answer."""
        name = served.config.spec.outputs[0].name
        try:
            with self._client() as client:
                answers = client.predict(
                    served.model, inputs, served.config.choice.max_batch_size, version, internal=True
                )
        except ServingError:
            return None
        return np.asarray(answers[name])

    def rollout(self, served: Served) -> Rollout | None:
        """The rollout by which the champion serves."""
        return self.journal.serving(served.model, served.version)

    def reload(self, model: str) -> None:
        """Unload a model and load it again: what mends a model process that died, and nothing less does.

        Raises:
            ServingError: It does not load.
        """
        with self._client() as client, self.repository.locked():
            client.unload(model)
            client.load(model)

    def roll_back(self, model: str, reason: str, incident: str | None) -> Rollout:
        """Let the version before the champion answer again; see `leanloop.serving.rollout.roll_back`."""
        with self._client() as client:
            return roll_back(client, self.repository, self.journal, model, reason, incident=incident)

    def accept(self, model: str, reason: str) -> Rollout:
        """End the champion's bake; see `leanloop.serving.rollout.finish_bake`."""
        with self._client() as client:
            return finish_bake(client, self.repository, self.journal, model, reason)

    def end_overdue(self) -> tuple[Rollout, ...]:
        """End rollouts that no verdict came for in time; see `leanloop.serving.rollout.enforce_deadlines`."""
        with self._client() as client:
            return enforce_deadlines(client, self.repository, self.journal)

    def recover(self) -> tuple[Mended, ...]:
        """Finish or undo rollouts that a crash interrupted."""
        with self._client() as client:
            return recover(client, self.repository, self.journal)

    def freeze_capture(self, model: str) -> None:
        """Keep no more of a model's requests, until it is deployed again.

        Raises:
            ServingError: It does not load without.
        """
        with self._client() as client, self.repository.locked():
            config = self.repository.config(model)
            if config is not None and config.capture is not None:
                config.model_copy(update={"capture": None}).save(self.repository.folder(model))
                client.load(model)
