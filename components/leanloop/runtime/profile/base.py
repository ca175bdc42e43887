"""What every profiler gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from leanloop.bundle import Arrays
from leanloop.core.contracts import ModelFiles
from leanloop.core.measure_lock import measuring
from leanloop.core.registry import Registry

Role = Literal["compute", "conversion", "other"]


@dataclass(frozen=True)
class Kernel:
    """One kernel of one call.

    Attributes:
        name: What the runtime calls it: after an operator of the file, or after what it fused.
        kind: Its operator, such as ``Convolution`` or ``QLinearConv``.
        implementation: Which code ran, with its instruction set where the runtime tells, such as
            ``brgconv_avx512_amx_I8``.
        precision: That it computed in, such as ``int8``; empty where that means nothing.
        role: ``compute`` multiplies with weights or states (convolutions, matrix products, recurrences),
            ``conversion`` only changes numbers' type or layout.
        milliseconds: Per call, over many calls.
    """

    name: str
    kind: str
    implementation: str
    precision: str
    role: Role
    milliseconds: float


class Profile(Protocol):
    """How a runtime tells; one is registered per runtime that can."""

    def __call__(
        self, model: ModelFiles, folder: Path, inputs: Arrays, *, threads: int, seconds: float
    ) -> list[Kernel]:
        """See `profile`."""


PROFILERS: Registry[Profile] = Registry("profiler")


def profile(model: ModelFiles, folder: Path, inputs: Arrays, *, threads: int, seconds: float) -> list[Kernel] | None:
    """The kernels of one call, in the order in which they run; None for a runtime that does not tell.

    Profiling slows a call down, so these times are shares of a whole, not latencies.

    Args:
        model: Which files, for which runtime, with which hints.
        folder: The folder that the files' names are relative to.
        inputs: One batch.
        threads: CPU threads.
        seconds: How long to look.
    """
    if model.runtime not in PROFILERS:
        return None
    with measuring():
        return PROFILERS[model.runtime](model, folder, inputs, threads=threads, seconds=seconds)
