"""Clients of Triton: inference by gRPC or HTTP and the calls that load and unload models; or inference from asyncio."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from tritonclient import grpc
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from leanloop.core.errors import ServingError
from leanloop.serving.capture_format import INTERNAL
from leanloop.serving.triton import TOKEN_HEADER

Arrays = Mapping[str, npt.NDArray[Any]]
Protocol = Literal["grpc", "http"]


def internal_id() -> str:
    """A request id for our own questions, which are never captured."""
    return f"{INTERNAL}{uuid.uuid4().hex}"


def on_the_wire(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as Triton carries it: one number per sample, shape (n,), travels as (n, 1)."""
    return array.reshape(-1, 1) if array.ndim == 1 else array


@dataclass(frozen=True)
class Answer:
    """What the server gave: outputs by name (see `on_the_wire`), and the version that computed them."""

    outputs: dict[str, npt.NDArray[Any]]
    version: int


@dataclass(frozen=True)
class LoadedModel:
    """One line of the server's index."""

    name: str
    version: int
    state: str
    reason: str


class TritonClient:
    """Talks to one server. By gRPC it may be shared by threads; by HTTP each thread needs its own.

    Args:
        http_url: ``host:port`` of HTTP.
        grpc_url: ``host:port`` of gRPC; also carries the repository calls.
        protocol: Which of the two carries inference.
        token: Opens the repository calls of a server that leanloop started.
        timeout: Seconds for one call.
    """

    def __init__(
        self, http_url: str, grpc_url: str, protocol: Protocol = "grpc", *, token: str = "", timeout: float = 60.0
    ) -> None:
        self.http_url = http_url
        self.grpc_url = grpc_url
        self.protocol = protocol
        self._timeout = timeout
        self._grpc = grpc.InferenceServerClient(grpc_url)
        self._grpc_headers = {f"triton-grpc-protocol-{TOKEN_HEADER}": token}
        self._tensors: ModuleType = grpc
        self._http: Any = None
        if protocol == "http":
            # Brings gevent: time that gRPC users need not pay.
            from tritonclient import http

            self._tensors = http
            self._http = http.InferenceServerClient(http_url, connection_timeout=timeout, network_timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._grpc.close()
        if self._http is not None:
            self._http.close()

    def infer(
        self, model: str, inputs: Arrays, version: int | None = None, request_id: str | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name for one batch; see `answer`."""
        return self.answer(model, inputs, version, request_id).outputs

    def answer(self, model: str, inputs: Arrays, version: int | None = None, request_id: str | None = None) -> Answer:
        """Run one batch.

        Args:
            model: Name of the model.
            inputs: Arrays by name, all with the batch on axis 0.
            version: Which one; None leaves it to the server, which takes the highest that is loaded.
            request_id: Names the request in captures and traces; made up when left out.

        Raises:
            ServingError: The server is not there, refuses, or the model fails.
        """
        return self.prepare(model, inputs, version)(request_id or uuid.uuid4().hex)

    def prepare(self, model: str, inputs: Arrays, version: int | None = None) -> Callable[[str], Answer]:
        """Encode a request once; the returned function sends it under the given request id."""
        tensors = _encoded(self._tensors, inputs)
        number, where = _number(version), _where(model, version)

        def send(request_id: str) -> Answer:
            if self._http is not None:
                result = self._call(where, self._http.infer, model, tensors, number, request_id=request_id)
                response = result.get_response()
                names, answered = [one["name"] for one in response["outputs"]], response["model_version"]
            else:
                result = self._call(
                    where,
                    self._grpc.infer,
                    model,
                    tensors,
                    number,
                    request_id=request_id,
                    client_timeout=self._timeout,
                )
                return _grpc_answer(result)
            return Answer({name: result.as_numpy(name) for name in names}, int(answered))

        return send

    def predict(
        self, model: str, inputs: Arrays, batch_size: int, version: int | None = None, *, internal: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        """Outputs for any number of samples, sent ``batch_size`` at a time; ``internal`` questions are not captured."""
        samples = len(next(iter(inputs.values())))
        parts = [
            self.infer(
                model,
                {name: array[start : start + batch_size] for name, array in inputs.items()},
                version,
                internal_id() if internal else None,
            )
            for start in range(0, samples, batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def zeros(self, model: str, version: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """One sample of zeros, shaped as the server describes the model's inputs."""
        metadata = self._call(
            model,
            self._grpc.get_model_metadata,
            model,
            _number(version),
            client_timeout=self._timeout,
        )
        return {
            tensor.name: np.zeros([max(size, 1) for size in tensor.shape], triton_to_np_dtype(tensor.datatype))
            for tensor in metadata.inputs
        }

    def is_serving(self, model: str, version: int | None = None) -> bool:
        """Whether a real inference is answered; the server's own readiness lies when a model process died."""
        try:
            return version in (None, self.answer(model, self.zeros(model, version), version, internal_id()).version)
        except ServingError:
            return False

    def load(self, model: str) -> None:
        """Load the model as its ``config.pbtxt`` says now; what served before serves until that is done."""
        self._call(model, self._grpc.load_model, model, headers=self._grpc_headers, client_timeout=self._timeout)

    def unload(self, model: str) -> None:
        """Unload all versions; requests under way are answered."""
        self._call(model, self._grpc.unload_model, model, headers=self._grpc_headers, client_timeout=self._timeout)

    def index(self) -> tuple[LoadedModel, ...]:
        """Model versions that the server has loaded or failed to load."""
        index = self._call(
            self.grpc_url,
            self._grpc.get_model_repository_index,
            headers=self._grpc_headers,
            client_timeout=self._timeout,
        )
        return tuple(
            LoadedModel(one.name, int(one.version), one.state, one.reason) for one in index.models if one.version
        )

    def _call(self, where: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except InferenceServerException as error:
            raise _told(error, where, self.grpc_url) from error
        except OSError as error:
            raise _absent(self.http_url, error) from error


class AsyncTritonClient:
    """Asks one server by gRPC from an event loop, in which it must be made; any number of requests may be under way.

    Args:
        grpc_url: ``host:port`` of gRPC.
        timeout: Seconds for one call.
    """

    def __init__(self, grpc_url: str, *, timeout: float = 60.0) -> None:
        self.grpc_url = grpc_url
        self._timeout = timeout
        self._grpc = aio.InferenceServerClient(grpc_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._grpc.close()

    async def infer(
        self, model: str, inputs: Arrays, version: int | None = None, request_id: str | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name for one batch; see `answer`."""
        return (await self.answer(model, inputs, version, request_id)).outputs

    async def answer(
        self, model: str, inputs: Arrays, version: int | None = None, request_id: str | None = None
    ) -> Answer:
        """Run one batch; see `TritonClient.answer`.

        Raises:
            ServingError: The server is not there, refuses, or the model fails.
        """
        try:
            result = await self._grpc.infer(
                model,
                _encoded(grpc, inputs),
                _number(version),
                request_id=request_id or uuid.uuid4().hex,
                client_timeout=self._timeout,
            )
        except InferenceServerException as error:
            raise _told(error, _where(model, version), self.grpc_url) from error
        return _grpc_answer(result)


def _encoded(protocol: ModuleType, inputs: Arrays) -> list[Any]:
    tensors = []
    for name, array in inputs.items():
        rows = on_the_wire(np.ascontiguousarray(array))
        tensor = protocol.InferInput(name, rows.shape, np_to_triton_dtype(rows.dtype))
        tensor.set_data_from_numpy(rows)
        tensors.append(tensor)
    return tensors


def _number(version: int | None) -> str:
    return "" if version is None else str(version)


def _where(model: str, version: int | None) -> str:
    return f"{model} version {_number(version) or '(the newest loaded)'}"


def _grpc_answer(result: Any) -> Answer:
    response = result.get_response()
    return Answer({one.name: result.as_numpy(one.name) for one in response.outputs}, int(response.model_version))


def _told(error: InferenceServerException, where: str, url: str) -> ServingError:
    if error.status() == "StatusCode.UNAVAILABLE" and "failed to connect" in error.message():
        return _absent(url, error)
    return ServingError("Triton refused a call.", where=where, value=error)


def _absent(url: str, error: Exception) -> ServingError:
    return ServingError(
        "No Triton answers.",
        where=url,
        value=error,
        fix="Start it with `leanloop serve up`, or correct serving.http_url and serving.grpc_url.",
    )
