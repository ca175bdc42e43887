"""The training loop that fine-tunings share: batches from tensors in memory, which wait while somebody measures."""

from __future__ import annotations

import ctypes
import math
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from leanloop.core.errors import TrialError
from leanloop.core.events import emit
from leanloop.core.hardware import instruction_sets
from leanloop.core.measure_lock import TrainingTurn

_EVENT_STEPS = 50
_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_THRESHOLD = -1, -3

Loss = Callable[[list[Tensor], Tensor], Tensor]
"""``(outputs, rows) -> loss``: the outputs are those of the samples ``rows``."""

AfterStep = Callable[[float], None]
"""Called after each step with how far the training is, above 0 and up to 1: changes weights in place."""


class Schedule(Protocol):
    """How long to train, and how fast to learn: one cycle of the learning rate, that ends on a cosine."""

    @property
    def epochs(self) -> int:
        """Passes over the samples."""

    @property
    def batch_size(self) -> int:
        """Samples per step."""

    @property
    def learning_rate(self) -> float:
        """Peak."""

    @property
    def optimizer(self) -> str:
        """``sgd`` (Nesterov momentum 0.9) or ``adamw``."""

    @property
    def weight_decay(self) -> float:
        """On all weights."""


def train(
    module: nn.Module,
    inputs: Sequence[Tensor],
    loss_of: Loss,
    schedule: Schedule,
    order: np.random.Generator,
    *,
    threads: int,
    after_step: AfterStep | None = None,
) -> float:
    """Train in place, in bf16 where the CPU has it; the module ends in eval mode.

    Args:
        module: Called with the inputs in order.
        inputs: Samples, [n, ...] each.
        loss_of: See `Loss`.
        schedule: How long and how fast.
        order: Draws the order of the samples.
        threads: CPU threads.
        after_step: See `AfterStep`.

    Returns:
        Seconds per sample, by the median step.

    Raises:
        TrialError: The loss is no longer a number.
    """
    torch.set_num_threads(threads)
    _keep_freed_memory()
    count = len(inputs[0])
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps_per_epoch = max(1, count // schedule.batch_size)
    steps = schedule.epochs * steps_per_epoch
    optimizer, rate = _optimizer(module, schedule, steps)
    turn = TrainingTurn()
    durations: list[float] = []
    try:
        for _ in range(schedule.epochs):
            module.train()
            permuted = torch.from_numpy(order.permutation(count))
            for batch in torch.split(permuted, schedule.batch_size)[:steps_per_epoch]:
                started = time.perf_counter()
                with turn:
                    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
                        result = module(*(channels_last(values[batch]) for values in inputs))
                    loss = loss_of(outputs_of(result), batch)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    rate.step()
                    if after_step is not None:
                        after_step((len(durations) + 1) / steps)
                durations.append(time.perf_counter() - started)
                step = len(durations)
                if step % _EVENT_STEPS == 0 or step == steps:
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise TrialError("Fine-tuning diverged: the loss is not a number.", value=f"step {step}")
                    emit("training", done=step, total=steps, loss=round(value, 4))
    finally:
        turn.close()
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module.eval()
    return float(np.median(durations)) / min(schedule.batch_size, count)


def channels_last(values: Tensor) -> Tensor:
    """Images with channels last, on which convolutions on the CPU train about half as long again faster."""
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def has_bf16() -> bool:
    """Whether the CPU computes in bf16."""
    return bool(instruction_sets() & {"amx_bf16", "avx512_bf16"})


def normalises_layers(module: nn.Module) -> bool:
    """Whether it is built on layer norm (transformers), and so does not train well under plain momentum."""
    return any(isinstance(layer, nn.LayerNorm) for layer in module.modules())


def outputs_of(result: Any) -> list[Tensor]:
    """What a network returned (a tensor, a sequence or a dict) as float tensors, in order."""
    values = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else [result]
    return [value.float() for value in values]


def _optimizer(
    module: nn.Module, schedule: Schedule, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            module.parameters(), schedule.learning_rate, momentum=0.9, nesterov=True, weight_decay=schedule.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(module.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=steps + 1, pct_start=0.25
    )


def _keep_freed_memory() -> None:
    # glibc gives large freed blocks back to the kernel, and every batch then pays for fresh pages: a fifth of the time.
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MALLOC_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_MALLOC_TRIM_THRESHOLD, (1 << 31) - 1)
