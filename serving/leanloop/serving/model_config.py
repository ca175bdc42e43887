"""``config.pbtxt``: what Triton is told about a model, rendered from and read back into one record.

Triton's own protobuf message writes and parses the file, so its syntax is never ours to get wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from pydantic import Field, field_validator
from tritonclient.grpc import model_config_pb2

from leanloop.core.contracts import Record, ServingChoice
from leanloop.core.errors import ServingError
from leanloop.core.files import write_text
from leanloop.core.settings import Name

FILE_NAME = "config.pbtxt"

DType = Literal["float32", "float64", "int32", "int64", "uint8", "bool"]

_TRITON_TYPES: dict[DType, str] = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


class TensorSpec(Record):
    """One named input or output, without its batch axis; -1 is an axis of any length, () one number per sample."""

    name: Name
    shape: tuple[int, ...]
    dtype: DType = "float32"

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 and size != -1 for size in shape):
            raise ValueError("every axis must be at least 1, or -1 for any length")
        return shape

    @classmethod
    def of(cls, name: str, array: npt.NDArray[Any]) -> Self:
        """The spec of a batch of this tensor."""
        return cls(name=name, shape=array.shape[1:], dtype=array.dtype.name)

    def zeros(self, batch_size: int) -> npt.NDArray[Any]:
        """A batch of zeros; an axis of any length gets length 1."""
        return np.zeros((batch_size, *(max(size, 1) for size in self.shape)), self.dtype)


class ModelSpec(Record):
    """A model's name and tensors: the same for all of its versions."""

    name: Name
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)


class CaptureChoice(Record):
    """Which requests are kept, and where; see `leanloop.serving.capture_format.Capture`."""

    folder: str
    rate: float = Field(gt=0, le=1)
    quota_bytes: int = Field(gt=0)


class ModelConfig(Record):
    """All that `config.pbtxt` says: the model, which versions are loaded, and how they are run."""

    spec: ModelSpec
    versions: tuple[int, ...] = Field(min_length=1)
    choice: ServingChoice
    capture: CaptureChoice | None = None

    def render(self) -> str:
        """The text of ``config.pbtxt``.

        Loading runs a batch of one and a full batch of zeros through each instance, so that the first real
        request is not the slow one and a model whose batch axis is fixed does not load.
        """
        message = model_config_pb2.ModelConfig(
            name=self.spec.name, backend="python", max_batch_size=self.choice.max_batch_size
        )
        message.version_policy.specific.versions.extend(sorted(self.versions))
        for tensor in self.spec.inputs:
            _describe(message.input.add(), tensor)
        for tensor in self.spec.outputs:
            _describe(message.output.add(), tensor)
        message.dynamic_batching.max_queue_delay_microseconds = self.choice.queue_delay_us
        message.dynamic_batching.preferred_batch_size.extend(self.choice.preferred_batch_sizes)
        message.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=self.choice.instances)
        for batch_size in sorted({1, self.choice.max_batch_size}):
            warmup = message.model_warmup.add(name=f"batch_{batch_size}", batch_size=batch_size)
            for tensor in self.spec.inputs:
                entry = warmup.inputs[tensor.name]
                entry.data_type = model_config_pb2.DataType.Value(_TRITON_TYPES[tensor.dtype])
                entry.dims.extend(tensor.zeros(1).shape[1:] or (1,))
                entry.zero_data = True
        message.parameters["threads"].string_value = str(self.choice.threads)
        if self.capture is not None:
            message.parameters["capture"].string_value = self.capture.model_dump_json()
        return str(text_format.MessageToString(message))

    def capturing_into(self, folder: Path) -> Self:
        """The same, keeping requests in another folder if it keeps any."""
        if self.capture is None:
            return self
        return self.model_copy(update={"capture": self.capture.model_copy(update={"folder": str(folder)})})

    def save(self, folder: Path) -> None:
        """Write ``config.pbtxt`` into the model's folder, atomically."""
        write_text(folder / FILE_NAME, self.render())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``config.pbtxt`` back from the model's folder.

        Raises:
            ServingError: It is missing, or leanloop did not write it.
        """
        path = folder / FILE_NAME
        try:
            message = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
            capture = message.parameters["capture"].string_value if "capture" in message.parameters else None
            return cls(
                spec=ModelSpec(
                    name=message.name,
                    inputs=tuple(_tensor(one) for one in message.input),
                    outputs=tuple(_tensor(one) for one in message.output),
                ),
                versions=tuple(message.version_policy.specific.versions),
                choice=ServingChoice(
                    instances=message.instance_group[0].count,
                    threads=int(message.parameters["threads"].string_value),
                    max_batch_size=message.max_batch_size,
                    queue_delay_us=message.dynamic_batching.max_queue_delay_microseconds,
                    preferred_batch_sizes=tuple(message.dynamic_batching.preferred_batch_size),
                ),
                capture=None if capture is None else CaptureChoice.model_validate_json(capture),
            )
        except (OSError, text_format.ParseError, ValueError, IndexError, KeyError) as error:
            raise ServingError(
                "A model's configuration cannot be read.",
                where=str(path),
                value=error,
                fix="The repository belongs to leanloop: deploy the model again under another name.",
            ) from error


def _describe(entry: Any, tensor: TensorSpec) -> None:
    entry.name = tensor.name
    entry.data_type = model_config_pb2.DataType.Value(_TRITON_TYPES[tensor.dtype])
    entry.dims.extend(tensor.shape or (1,))
    if not tensor.shape:
        # Triton carries at least one axis beside the batch; the model sees and gives none.
        entry.reshape.SetInParent()


def _tensor(entry: Any) -> TensorSpec:
    triton_type = model_config_pb2.DataType.Name(entry.data_type)
    dtype = next(name for name, value in _TRITON_TYPES.items() if value == triton_type)
    shape = () if entry.HasField("reshape") else tuple(entry.dims)
    return TensorSpec(name=entry.name, shape=shape, dtype=dtype)
