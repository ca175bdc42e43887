"""Costs and times of a PyTorch module's layers, taken by hooks while it runs."""

from __future__ import annotations

import time
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from leanloop.analyze.cost import Cost
from leanloop.bundle import Arrays, tensors
from leanloop.core.measure_lock import measuring

_NO_WORK = (nn.Sequential, nn.Identity, nn.Dropout)
_WHOLE = "(model)"
_RUNS_AT_LEAST, _RUNS_AT_MOST = 5, 500
_HOOK_CALLS = 200


def module_costs(module: nn.Module, sample: Arrays) -> list[Cost]:
    """Parameters, MACs and bytes of every module that does work of its own, for one sample.

    A module that holds others is a row for what it does itself: functional calls and its own parameters. MACs are
    PyTorch's own count of floating-point operations, halved.
    """
    names = _working_modules(module)
    outputs: dict[str, Tensor] = {}
    with _hooked(module, names, after=lambda name, result: outputs.update({name: result})), torch.inference_mode():
        module(*tensors(sample))
    own_macs = _own_macs(module, sample)
    counted: set[Tensor] = set()
    costs = []
    # In the order in which they finished; an unused module costs only its weights, and comes last.
    for name in [*outputs, *(name for name in names if name not in outputs)]:
        own = names[name]
        weights = [tensor for tensor in own.parameters(recurse=False) if tensor not in counted]
        counted.update(weights)
        if name not in outputs and not weights:
            continue
        given = [value for value in tree_leaves(outputs.get(name)) if isinstance(value, Tensor)]
        costs.append(
            Cost(
                name=name,
                kind=type(own).__name__,
                parameters=sum(tensor.numel() for tensor in weights),
                macs=own_macs.get(name, 0),
                weight_bytes=sum(tensor.nbytes for tensor in weights),
                activation_bytes=sum(tensor.nbytes for tensor in given) if not list(own.children()) else 0,
                output_shape=tuple(given[0].shape) if given else (),
            )
        )
    return costs


def peak_activation_bytes(module: nn.Module, sample: Arrays) -> int:
    """Most bytes of activations alive at once for one sample, eager; the caller's inputs count, weights do not."""
    images = tensors(sample)
    weights = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    live = _LiveBytes(weights, images)
    with torch.inference_mode(), live:
        module(*images)
    return live.peak


def module_times(module: nn.Module, inputs: tuple[Tensor, ...], seconds: float) -> dict[str, float]:
    """Median milliseconds that each working module spends in itself, for one batch.

    The hooks cost time too, and it falls on the modules that hold others: it is measured apart and taken off.

    Args:
        module: In the memory format of ``inputs``.
        inputs: One batch.
        seconds: How long to measure.
    """
    names = _working_modules(module)
    runs: list[dict[str, float]] = []
    clock = _Clock()
    with measuring(), torch.inference_mode():
        hook_seconds = _hook_seconds()
        with _hooked(module, dict(module.named_modules()), clock.start, clock.stop):
            module(*inputs)
            deadline = time.perf_counter() + seconds
            while len(runs) < _RUNS_AT_LEAST or (time.perf_counter() < deadline and len(runs) < _RUNS_AT_MOST):
                clock.clear()
                module(*inputs)
                runs.append({name: own - clock.calls[name] * hook_seconds for name, own in clock.own.items()})
    return {
        name: max(0.0, float(np.median([run.get(name, 0.0) for run in runs]))) * 1e3
        for name in runs[0]
        if name in names
    }


def _hook_seconds() -> float:
    # What a hooked call costs its caller beyond the time that the hooks see.
    outside, clock, child, nothing = [], _Clock(), nn.Identity(), torch.empty(0)
    with _hooked(child, {"": child}, clock.start, clock.stop):
        for _ in range(_HOOK_CALLS):
            clock.clear()
            started = time.perf_counter()
            child(nothing)
            outside.append(time.perf_counter() - started - clock.own[_WHOLE])
    return float(np.median(outside))


def _working_modules(module: nn.Module) -> dict[str, nn.Module]:
    return {
        name or _WHOLE: child
        for name, child in module.named_modules()
        if list(child.parameters(recurse=False)) or not isinstance(child, (*_NO_WORK, nn.ModuleList, nn.ModuleDict))
    }


@contextmanager
def _hooked(
    root: nn.Module,
    modules: Mapping[str, nn.Module],
    before: Callable[[str], object] | None = None,
    after: Callable[[str, Any], object] | None = None,
) -> Iterator[None]:
    handles = []
    for key, module in modules.items():
        name = _WHOLE if module is root else key
        if before is not None:
            handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: _nothing(before(name))))
        if after is not None:
            handles.append(module.register_forward_hook(lambda _m, _i, out, name=name: _nothing(after(name, out))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nothing(_: object) -> None:
    # A hook that returns a value would replace the module's own.
    return None


class _Clock:
    """Splits the time of nested calls into what each spends in itself, and counts the calls that each makes."""

    def __init__(self) -> None:
        self.own: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._open: list[tuple[str, float]] = []

    def clear(self) -> None:
        self.own.clear()
        self.calls.clear()

    def start(self, name: str) -> None:
        if self._open:
            self.calls[self._open[-1][0]] += 1
        self._open.append((name, time.perf_counter()))

    def stop(self, name: str, _result: object) -> None:
        _, started = self._open.pop()
        elapsed = time.perf_counter() - started
        self.own[name] += elapsed
        if self._open:
            self.own[self._open[-1][0]] -= elapsed


def _own_macs(module: nn.Module, sample: Arrays) -> dict[str, int]:
    # Fused kernels (recurrent layers in oneDNN, the attention fast path) have no formula in the counter: without them
    # the same work runs as plain products, which have.
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), counter:
                module(*tensors(sample))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    root = type(module).__name__
    totals = {key: sum(by_operator.values()) // 2 for key, by_operator in counter.get_flop_counts().items()}
    own: dict[str, int] = defaultdict(int)
    for key, total in totals.items():
        if key == "Global":
            continue
        name = key.removeprefix(root).removeprefix(".")
        own[name or _WHOLE] += total
        if name:
            own[name.rpartition(".")[0] or _WHOLE] -= total
    own[_WHOLE] += totals.get("Global", 0) - totals.get(root, 0)
    return own


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operators allocate, until they are freed."""

    def __init__(self, ignored: set[int], inputs: tuple[Tensor, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = set(ignored)
        self._alive = self.peak = 0
        for tensor in inputs:
            self._track(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._track(tensor)
        self.peak = max(self.peak, self._alive)
        return result

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._freed, key, size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size
