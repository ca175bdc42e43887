"""2:4 semi-structured pruning: of every four neighbouring weights of an input axis, the two smallest become zero.

NVIDIA's tensor cores (Ampere and later) skip them: with TensorRT a 2:4 matrix product takes about half the time. Which
two are zero is two bits each, so a weight matrix needs ``(2 * 16 + 2 * 2) / (4 * 16) = 9/16`` of its fp16 bytes. On a
CPU nothing skips them: no runtime here has such kernels, and the files are as large as before unless they are
compressed. So this is a technique for TensorRT, made here and measured as no gain here.

Shapes: a weight ``[out, in, ...]`` is read as groups of four along ``in``; layers whose ``in`` is no multiple of four
stay dense. The masks are made from magnitudes at the beginning and hold while the network is fine-tuned by
distillation.

Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from leanloop.bundle import Bundle
from leanloop.core.errors import TrialError
from leanloop.optimize.techniques import distillation
from leanloop.optimize.techniques.base import TECHNIQUES, TorchTechnique, Workshop, fine_tuning
from leanloop.optimize.techniques.distillation import DistillationConfig, distil
from leanloop.optimize.techniques.masks import Masks, weights_of

_GROUP, _KEPT = 4, 2


@dataclass(frozen=True)
class SemiStructuredPruningConfig(DistillationConfig):
    """How the network is fine-tuned under the masks; the pattern leaves nothing to choose."""

    technique: ClassVar[str] = "semi_structured_pruning"


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[SemiStructuredPruningConfig]:
    """As long as a distillation."""
    return [SemiStructuredPruningConfig(**asdict(distillation.choices(bundle, budget_minutes)[0]))]


def sparsify(module: nn.Module, config: SemiStructuredPruningConfig, workshop: Workshop) -> float:
    """Prune and fine-tune in place.

    Returns:
        Seconds per sample, by the median step.

    Raises:
        TrialError: No layer's inputs come in fours, or the loss is no longer a number.
    """
    if not two_of_four(weights_of(module)):
        raise TrialError("No layer has a multiple of four input channels.", fix="Leave this technique out.")
    masks = Masks(module, lambda weights, _: two_of_four(weights), _KEPT / _GROUP, gradual=False)
    seconds = distil(module, config, workshop, after_step=masks.after_step)
    masks.settle()
    return seconds


def two_of_four(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks that keep the two largest of every four weights along the input axis, of all layers that allow it."""
    return {name: _mask(weight.detach()) for name, weight in weights.items() if weight.shape[1] % _GROUP == 0}


def _mask(weight: Tensor) -> Tensor:
    last = weight.abs().movedim(1, -1)
    groups = last.reshape(*last.shape[:-1], -1, _GROUP)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    kept.scatter_(-1, groups.topk(_KEPT, dim=-1).indices, True)
    return kept.reshape(last.shape).movedim(-1, 1)


TECHNIQUES.register(SemiStructuredPruningConfig.technique)(
    TorchTechnique(
        name=SemiStructuredPruningConfig.technique,
        config=SemiStructuredPruningConfig,
        why_not=distillation.why_not,
        choices=choices,
        apply=fine_tuning(sparsify),
        shorten=distillation.shorten,
        prepare=distillation.teacher_outputs,
        work=distillation.work,
        scale=distillation.scale,
        own_ladder=True,
        masks=True,
    )
)
