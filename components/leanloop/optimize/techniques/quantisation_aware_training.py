"""Quantisation-aware training: fine-tuning under simulated INT8, so that the weights suit it.

Whatever a layer multiplies is rounded in the forward pass as INT8 kernels would, and the gradient goes through as if it
were not (straight-through estimator)::

    weights  [out, ...]   q = clip(round(w / s_out), -127, 127) * s_out,       s_out = max|w_out| / 127
    inputs                q = (clip(round(x / s) + z, 0, 255) - z) * s,        s, z from a running minimum and maximum

One scale per output channel makes a batch norm behind the layer harmless: folding it into the weights multiplies each
channel by a number, and its scale with it. What is left afterwards are float weights in the same shapes; a technique
that makes INT8 files follows in the recipe, measures ranges anew and gives integer kernels as for any other network. So
nothing of the simulation has to survive an export. The loss is distillation's, at a small learning rate.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from leanloop.bundle import Bundle
from leanloop.optimize.techniques import distillation
from leanloop.optimize.techniques.base import TECHNIQUES, TorchTechnique, Workshop, fine_tuning
from leanloop.optimize.techniques.distillation import DistillationConfig, distil
from leanloop.optimize.techniques.masks import layers_of

_GENTLER = 0.1
_SHORTER = 3
_MOMENTUM = 0.05
_LEAST_SCALE = 1e-8


@dataclass(frozen=True)
class QuantisationAwareTrainingConfig(DistillationConfig):
    """How long to fine-tune, and on which loss; the simulation leaves nothing to choose."""

    technique: ClassVar[str] = "quantisation_aware_training"
    epochs: int = 1
    learning_rate: float = 0.005


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[QuantisationAwareTrainingConfig]:
    """A third of a distillation's epochs at a tenth of its rate: it follows one."""
    usual = asdict(distillation.choices(bundle, budget_minutes)[0])
    usual |= {
        "epochs": max(1, usual["epochs"] // _SHORTER),
        "learning_rate": _GENTLER * usual["learning_rate"],
    }
    return [QuantisationAwareTrainingConfig(**usual)]


def train_quantised(module: nn.Module, config: QuantisationAwareTrainingConfig, workshop: Workshop) -> float:
    """Fine-tune in place; the module is a float one again afterwards.

    Returns:
        Seconds per sample, by the median step.

    Raises:
        TrialError: The loss is no longer a number.
    """
    with Simulated(module):
        return distil(module, config, workshop)


class Simulated:
    """Linear and convolution layers compute as INT8 kernels would, while the block lasts.

    Args:
        module: Changed in place, and back.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = layers_of(module)

    def __enter__(self) -> Self:
        for layer in self._layers:
            parametrize.register_parametrization(layer, "weight", _Weights())
        self._hooks = [layer.register_forward_pre_hook(_Inputs()) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _Weights(nn.Module):
    """One symmetric scale per output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().flatten(1).amax(1)
        scale = (largest / 127).clamp(min=_LEAST_SCALE)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class _Inputs:
    """One scale and zero point per tensor, from what was seen while training."""

    def __init__(self) -> None:
        self._low = self._high = torch.zeros(())
        self._seen = False

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = inputs[0].float()
        if layer.training or not self._seen:
            low, high = values.detach().amin(), values.detach().amax()
            share = _MOMENTUM if self._seen else 1.0
            # Zero is always exact: padding and ReLU give it.
            self._low = torch.lerp(self._low, low, share).clamp(max=0.0)
            self._high = torch.lerp(self._high, high, share).clamp(min=0.0)
            self._seen = True
        scale = ((self._high - self._low) / 255).clamp(min=_LEAST_SCALE)
        zero = torch.round(-self._low / scale).to(torch.int32)
        return (torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255), *inputs[1:])


TECHNIQUES.register(QuantisationAwareTrainingConfig.technique)(
    TorchTechnique(
        name=QuantisationAwareTrainingConfig.technique,
        config=QuantisationAwareTrainingConfig,
        why_not=distillation.why_not,
        choices=choices,
        apply=fine_tuning(train_quantised),
        shorten=distillation.shorten,
        prepare=distillation.teacher_outputs,
        work=distillation.work,
        scale=distillation.scale,
        continues=True,
        mends=True,
    )
)
