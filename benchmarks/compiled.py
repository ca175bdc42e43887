"""PyTorch's own compiler as one more runtime to measure: inductor, frozen weights, in the faster memory format."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from apart import reason_of
from torch import nn

from leanloop.benchmark.latency import batch_of
from leanloop.bundle import Arrays, Bundle, tensors
from leanloop.runtime import Session

COMPILED = "torch.compile"

_FORMATS = (torch.contiguous_format, torch.channels_last)


class CompiledSession:
    """The original through ``torch.compile``; as the eager one, in whichever memory format is faster."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        self._bundle = bundle
        torch.set_num_threads(threads)
        torch._inductor.config.freezing = True  # type: ignore[attr-defined]
        self._modules = {one: self._compile(one) for one in _FORMATS}
        self.description = {
            "runtime": f"torch.compile {torch.__version__}",
            "threads": str(threads),
            "precision": "fp32",
        }

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for one batch, by name."""
        with torch.no_grad():
            return self._bundle.name_outputs(self._modules[torch.contiguous_format](*tensors(inputs)))

    def bound(self, inputs: Arrays) -> Callable[[], object]:
        """A call without arguments; both memory formats are compiled and tried."""
        calls = [self._call(inputs, memory_format) for memory_format in _FORMATS]
        return min(calls, key=_seconds)

    def _call(self, inputs: Arrays, memory_format: torch.memory_format) -> Callable[[], object]:
        module = self._modules[memory_format]
        given = [one.contiguous(memory_format=memory_format) if one.ndim == 4 else one for one in tensors(inputs)]

        def call() -> object:
            with torch.no_grad():
                return module(*given)

        call()
        return call

    def _compile(self, memory_format: torch.memory_format) -> Callable[..., Any]:
        module: nn.Module = self._bundle.module().to(memory_format=memory_format)  # type: ignore[call-overload]
        return torch.compile(module, dynamic=False)

    def close(self) -> None:
        """Forget what was compiled."""
        torch.compiler.reset()


@contextmanager
def compiled_or_reason(bundle: Bundle) -> Iterator[tuple[dict[str, Session], dict[str, str]]]:
    """`COMPILED` as an open session; where it cannot be compiled, why not."""
    session = CompiledSession(bundle, threads=1)
    try:
        try:
            session.run(batch_of(bundle.samples, 1))
        except Exception as error:  # noqa: BLE001 - a compiler's failure is a peer's result
            yield {}, {COMPILED: reason_of(error)}
        else:
            yield {COMPILED: session}, {}
    finally:
        session.close()


def _seconds(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=10, repeat=5))
