"""Unstructured pruning: the smallest weights become zero, wherever they stand, and training makes up for them.

The importance of a weight is its magnitude ``|w|`` (L1). ``local`` takes the same share out of every layer; ``global``
compares the weights of all layers, so that layers with many small ones lose more::

    mask = |w| > quantile(|w|, sparsity)          of the layer, or of all layers together

The zeros come little by little (`leanloop.optimize.techniques.masks`) while the network is fine-tuned by distillation,
and are permanent afterwards. Shapes stay as they are, and so does the time: dense kernels multiply by zeros as well.
What is gained is bytes, once a file is compressed: a share of zeros ``s`` needs about ``(1 - s)`` of the bits plus the
entropy of where they stand.

OpenVINO can keep sparse INT8 weights of matrix products packed (``CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE``), by its code
on CPUs with AMX alone, and for weights [out, in] whose sides are multiples of 64. Nothing here turns it on, and no
speed is claimed. Measured once, without AMX: no effect (`docs/techniques.md`).

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015; Zhu and Gupta,
2017 (gradual schedule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from leanloop.bundle import Bundle
from leanloop.optimize.techniques import distillation
from leanloop.optimize.techniques.base import TECHNIQUES, TorchTechnique, Workshop, check, fine_tuning
from leanloop.optimize.techniques.distillation import DistillationConfig, distil
from leanloop.optimize.techniques.masks import Masks


@dataclass(frozen=True)
class UnstructuredPruningConfig(DistillationConfig):
    """How many weights become zero, and how the network is fine-tuned meanwhile.

    Attributes:
        sparsity: Share of zeros at the end.
        scope: ``global`` (all layers compared) or ``local`` (the same share of each layer).
        gradual: Little by little, instead of all at the beginning.
    """

    technique: ClassVar[str] = "unstructured_pruning"
    sparsity: float = 0.8
    scope: str = "global"
    gradual: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.sparsity < 1, self, "sparsity", "between 0 and 1")
        check(self.scope in ("global", "local"), self, "scope", "global or local")
        check(isinstance(self.gradual, bool), self, "gradual", "true or false")


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[UnstructuredPruningConfig]:
    """Sparsities that networks usually bear, from mild to strong."""
    usual = asdict(distillation.choices(bundle, budget_minutes)[0])
    return [UnstructuredPruningConfig(**usual, sparsity=sparsity) for sparsity in (0.5, 0.7, 0.8, 0.9)]


def sparsify(module: nn.Module, config: UnstructuredPruningConfig, workshop: Workshop) -> float:
    """Prune and fine-tune in place.

    Returns:
        Seconds per sample, by the median step.

    Raises:
        TrialError: The loss is no longer a number.
    """
    choose = largest_of_all if config.scope == "global" else largest_of_each
    masks = Masks(module, choose, config.sparsity, gradual=config.gradual)
    seconds = distil(module, config, workshop, after_step=masks.after_step)
    masks.settle()
    return seconds


def largest_of_each(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Masks that keep the same share of each layer."""
    return {name: _above(weight.detach().abs(), sparsity) for name, weight in weights.items()}


def largest_of_all(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Masks that keep a share of all layers together; no layer loses its last weight."""
    sizes = {name: weight.detach().abs() for name, weight in weights.items()}
    together = _above(torch.cat([size.reshape(-1) for size in sizes.values()]), sparsity)
    parts = torch.split(together, [size.numel() for size in sizes.values()])
    masks = {name: part.reshape(size.shape) for (name, size), part in zip(sizes.items(), parts, strict=True)}
    for name, mask in masks.items():
        if not mask.any():
            masks[name] = sizes[name] == sizes[name].max()
    return masks


def _above(sizes: Tensor, sparsity: float) -> Tensor:
    """True for all but the smallest share; exact, where equal sizes would make a bound ambiguous."""
    mask = torch.ones_like(sizes, dtype=torch.bool).reshape(-1)
    smallest = round(sparsity * mask.numel())
    if smallest:
        mask[torch.topk(sizes.reshape(-1), smallest, largest=False).indices] = False
    return mask.reshape(sizes.shape)


TECHNIQUES.register(UnstructuredPruningConfig.technique)(
    TorchTechnique(
        name=UnstructuredPruningConfig.technique,
        config=UnstructuredPruningConfig,
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
