"""PyTorch eager in fp32: eval, inference_mode, in the faster memory format."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanloop.bundle import Arrays, Bundle, tensors
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import UnsupportedError
from leanloop.runtime.session import RUNTIMES

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MEMORY_FORMATS = ("contiguous", "channels_last")
_TRIAL_SECONDS = 0.1


class PyTorchSession:
    """The original module; ``bound`` tries both memory formats on the batch and keeps the faster one.

    The number of threads is PyTorch's own and so the whole process's: it is set while the session is open.
    """

    def __init__(self, bundle: Bundle, *, threads: int, memory_format: str) -> None:
        import torch

        self._torch = torch
        self._bundle = bundle
        self._module = bundle.module()
        self._formats = MEMORY_FORMATS if memory_format == "auto" else (memory_format,)
        self._previous_threads = torch.get_num_threads()
        torch.set_num_threads(threads)
        self.description = {
            "runtime": f"torch {torch.__version__}",
            "threads": str(torch.get_num_threads()),
            "precision": "fp32",
            "memory_format": memory_format,
        }

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for one batch, by name."""
        return self._bundle.call(self._module, inputs)

    def bound(self, inputs: Arrays) -> Callable[[], object]:
        """A call without arguments, on tensors in the memory format that was faster for this batch."""
        calls = {name: self._call(inputs, format_of(name)) for name in self._formats}
        if len(calls) == 1:
            return next(iter(calls.values()))
        return calls[min(calls, key=lambda name: _seconds_per_call(calls[name]))]

    def _call(self, inputs: Arrays, memory_format: torch.memory_format) -> Callable[[], object]:
        module: nn.Module = self._bundle.module().to(memory_format=memory_format)  # type: ignore[call-overload]
        images = tuple(_formatted(tensor, memory_format) for tensor in tensors(inputs))

        def call() -> object:
            with self._torch.inference_mode():
                return module(*images)

        return call

    def close(self) -> None:
        """Free the model and give PyTorch its threads back."""
        self._torch.set_num_threads(self._previous_threads)
        del self._module


def format_of(name: str) -> torch.memory_format:
    """PyTorch's object for one of `MEMORY_FORMATS`."""
    import torch

    return torch.channels_last if name == "channels_last" else torch.contiguous_format


def _formatted(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    return tensor.contiguous(memory_format=memory_format) if tensor.ndim == 4 else tensor


def _seconds_per_call(call: Callable[[], object]) -> float:
    call()
    best, deadline = float("inf"), time.perf_counter() + _TRIAL_SECONDS
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


@RUNTIMES.register("pytorch")
def open_pytorch(
    model: ModelFiles, folder: Path, *, threads: int, bundle: Bundle | None = None, batch_sizes: Sequence[int] = ()
) -> PyTorchSession:
    """Open the bundle's module; the hint ``memory_format`` is ``auto``, ``contiguous`` or ``channels_last``."""
    if bundle is None:
        raise UnsupportedError("A PyTorch module is built by the owner's code, which is in the bundle.")
    return PyTorchSession(bundle, threads=threads, memory_format=model.hints.get("memory_format", "auto"))
