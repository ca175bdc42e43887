"""Triton as its client shows it, in this process: it computes real answers, or fails as injected."""

from __future__ import annotations

import numpy as np

from leanloop.convert.onnxruntime import onnx_model_files
from leanloop.core.errors import ServingError
from leanloop.monitoring.triton_metrics import VersionMetrics
from leanloop.runtime import open_session
from leanloop.runtime.session import Session
from leanloop.serving import Answer, LoadedModel, ModelRepository, TritonClient
from leanloop.serving.client import Arrays


class Machine(TritonClient):
    """A client without a server: it runs the model files of the repository.

    Args:
        repository: Whose configuration counts at each load.
        model: Its only model.

    Attributes:
        loaded: Versions.
        replaced: What answers instead of a version whose memory has changed.
        dead: Versions whose process is gone.
        is_down: Whether nothing answers at all.
        reloads: How often the model was to be loaded anew.
        successes: Requests that were answered, for the counters; each has one sample.
        failures: Requests that failed in the model.
    """

    def __init__(self, repository: ModelRepository, model: str) -> None:
        self.http_url = self.grpc_url = "in this process"
        self._repository, self._model = repository, model
        self._sessions: dict[int, Session] = {}
        self.loaded: tuple[int, ...] = ()
        self.replaced: dict[int, Session] = {}
        self.dead: set[int] = set()
        self.is_down = False
        self.reloads = 0
        self.successes = self.failures = 0

    def close(self) -> None:
        """Nothing is held between two calls."""

    def end(self) -> None:
        """Free the models."""
        for session in self._sessions.values():
            session.close()

    def answer(self, model: str, inputs: Arrays, version: int | None = None, request_id: str | None = None) -> Answer:
        self._reach()
        number = max(self.loaded) if version is None else version
        if number not in self.loaded or number in self.dead:
            raise ServingError("Triton refused a call.", where=f"{model} version {number}", value="no process answers")
        session = self.replaced.get(number) or self._sessions[number]
        return Answer(dict(session.run(dict(inputs))), number)

    def zeros(self, model: str, version: int | None = None) -> dict[str, np.ndarray]:
        self._reach()
        return {tensor.name: tensor.zeros(1) for tensor in self._repository.served(model).spec.inputs}

    def load(self, model: str) -> None:
        self._reach()
        self.loaded = self._repository.served(model).versions
        for version in set(self.loaded) - self._sessions.keys():
            runtime = self._repository.runtime(model, version)
            folder = self._repository.folder(model) / str(version)
            files = onnx_model_files(folder / runtime["main"], runtime["precision"])
            self._sessions[version] = open_session(files, folder, threads=1)

    def unload(self, model: str) -> None:
        self.reloads += 1
        self._reach()

    def index(self) -> tuple[LoadedModel, ...]:
        self._reach()
        return tuple(LoadedModel(self._model, version, "READY", "") for version in self.loaded)

    def metrics(self) -> tuple[VersionMetrics, ...]:
        """Its counters; all traffic goes to the champion."""
        return (
            VersionMetrics(
                model=self._model,
                version=max(self.loaded),
                successes=self.successes,
                failures=self.failures,
                model_failures=self.failures,
                samples=self.successes,
                executions=self.successes,
                latency_ms=2.0,
                queue_ms=1.0,
                compute_ms=1.0,
            ),
        )

    def _reach(self) -> None:
        if self.is_down:
            raise ServingError("No Triton answers.", where=self.grpc_url)
