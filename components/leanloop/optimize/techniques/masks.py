"""Masks that hold chosen weights at zero while a module trains.

Weights that are taken out at once take accuracy with them that training does not always bring back. Taken out little by
little, each step's damage is small, and the weights that are left take over. With a final sparsity ``s`` and training
that goes from 0 to 1, the share of zeros at ``t`` is::

    s * (1 - (1 - t / 0.6)^3)     until t = 0.6, and s afterwards: the rest of the training settles what is left

Source: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from leanloop.optimize.techniques.training import AfterStep

Choose = Callable[[Mapping[str, Tensor], float], Mapping[str, Tensor]]
"""``(weights by layer, sparsity) -> masks of the same shapes``: true where a weight stays."""

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""What has channels and weights that can be taken out."""

_KEPT = "leanloop_settled_mask"
"""Attribute of a layer: neither parameter nor buffer, so that it is in no checkpoint."""

_RAMP = 0.6
_UPDATES = 50


class Masks:
    """Keeps a share of a module's weights at zero; biases and normalisations stay whole.

    Args:
        module: Changed in place.
        choose: Which weights stay.
        sparsity: Share of zeros at the end.
        gradual: Take weights out little by little, instead of all at the beginning.
    """

    def __init__(self, module: nn.Module, choose: Choose, sparsity: float, *, gradual: bool) -> None:
        self._module, self._weights = module, weights_of(module)
        self._choose, self._sparsity, self._gradual = choose, sparsity, gradual
        self._reached = -1.0
        self._masks: Mapping[str, Tensor] = {}
        self.after_step(0.0)

    def after_step(self, progress: float) -> None:
        """Zero what is masked; to be called after each step of an optimiser, which moves masked weights, too.

        Args:
            progress: Of the training, from 0 to 1.
        """
        ramp = min(1.0, progress / _RAMP) if self._gradual else 1.0
        # Which weights are the least changes slowly: they are chosen anew some fifty times, not at each step.
        due = self._reached < 0 or ramp - self._reached >= 1 / _UPDATES or (ramp == 1.0 and self._reached < 1.0)
        if due:
            self._reached = ramp
            self._masks = self._choose(self._weights, self._sparsity * (1 - (1 - ramp) ** 3))
        with torch.no_grad():
            for name, mask in self._masks.items():
                self._weights[name].mul_(mask)

    def settle(self) -> None:
        """What is zero now stays so, in later trainings of the same module, too: `held` sees to it."""
        for name, mask in self._masks.items():
            self._module.get_submodule(name).__dict__[_KEPT] = mask


def settle_zeros(module: nn.Module) -> None:
    """The same for a masked network whose weights come from the store: its zeros are the masks."""
    for layer in layers_of(module):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.__dict__[_KEPT] = weight.detach().ne(0).to(weight.dtype)


def held(module: nn.Module, after_step: AfterStep | None) -> AfterStep | None:
    """What is to be done after each step of a training, so that settled zeros stay zero.

    Args:
        module: That is trained.
        after_step: What else is to be done, before.
    """
    settled = [(layer, layer.__dict__[_KEPT]) for layer in module.modules() if _KEPT in layer.__dict__]
    if not settled:
        return after_step

    def hold(progress: float) -> None:
        if after_step is not None:
            after_step(progress)
        with torch.no_grad():
            for layer, mask in settled:
                trained_weight(layer).mul_(mask)

    return hold


def trained_weight(layer: nn.Module) -> Tensor:
    """The weight that an optimiser moves: behind a simulation of INT8, the float one."""
    weight = layer.parametrizations.weight.original if is_parametrized(layer, "weight") else layer.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Linear and convolution layers, each once."""
    return [layer for layer in module.modules() if isinstance(layer, LAYERS)]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The weights of linear and convolution layers, by layer; one that several layers share is listed once."""
    found: dict[str, Tensor] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LAYERS) and not any(layer.weight is known for known in found.values()):
            found[name] = layer.weight
    return found


def zero_share(module: nn.Module) -> float:
    """Share of zeros among the weights of linear and convolution layers."""
    weights = weights_of(module).values()
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
