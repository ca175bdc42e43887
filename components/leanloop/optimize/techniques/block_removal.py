"""Depth: whole residual blocks that can be left out are left out, those first that are missed least.

A residual block computes ``x + f(x)``: without it ``x`` goes on, and the network still runs. Small networks at small
batches are bound by the number of layers rather than by their width (each call of a kernel has its price), so a block
less can save more time than the same multiply-adds taken out of the channels.

What counts as a block: a direct member of an ``nn.Sequential`` or ``nn.ModuleList`` with at least two layers that have
weights, called once, with one tensor in and one tensor of the same shape out. It is replaced by the identity. Blocks
are ranked by how far the outputs move without them, ``mean((f_without(x) - f(x))^2)`` on calibration samples; the
second is ranked with the first gone, and so on. Batch norms are seen anew afterwards.

Source: Veit et al., "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NeurIPS 2016; Wang et
al., "SkipNet", ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from leanloop.bundle import Bundle, tensors
from leanloop.core.errors import TrialError
from leanloop.optimize.techniques import channel_pruning
from leanloop.optimize.techniques.base import TECHNIQUES, Config, TorchTechnique, Workshop, check, reshaping
from leanloop.optimize.techniques.observe import observe
from leanloop.optimize.techniques.recalibration import recalibrate
from leanloop.optimize.techniques.training import outputs_of

_RANKED_SAMPLES = 256
_LEAST_LAYERS = 2


@dataclass(frozen=True)
class BlockRemovalConfig(Config):
    """Which blocks go.

    Attributes:
        blocks: Names of the modules, separated by commas: ``stages.0,stages.3``.
    """

    technique: ClassVar[str] = "block_removal"
    version: int = 2
    blocks: str = ""

    def __post_init__(self) -> None:
        names = self.blocks.split(",") if self.blocks else []
        check(len(set(names)) == len(names), self, "blocks", "a list of different modules")


def why_not(bundle: Bundle) -> str | None:
    """Needs fine-tuning, as pruning does, and a block whose output has its input's shape."""
    if reason := channel_pruning.why_not(bundle):
        return reason
    if not removable_blocks(bundle.module(), samples_of(bundle)):
        return "no block of the network can be left out: none gives the shape that it takes"
    return None


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[BlockRemovalConfig]:
    """One block less, two blocks less, and so on; of several that could all go, the one that is missed most stays."""
    ranked = rank_blocks(bundle.module(), samples_of(bundle))
    most = max(1, len(ranked) - 1)
    return [BlockRemovalConfig(blocks=",".join(ranked[:count])) for count in range(1, most + 1)]


def remove(module: nn.Module, config: BlockRemovalConfig, workshop: Workshop) -> Any:
    """Replace blocks by the identity, in place.

    Returns:
        Their names, which `remove_again` takes.

    Raises:
        TrialError: One of them is none that can be left out.
    """
    able = removable_blocks(module, samples_of(workshop.bundle))
    blocks = config.blocks.split(",") if config.blocks else []
    if unknown := [name for name in blocks if name not in able]:
        raise TrialError(
            "A block cannot be left out.", value=", ".join(unknown), fix=f"Those that can: {', '.join(able) or 'none'}."
        )
    remove_again(module, blocks, workshop.bundle)
    recalibrate(module, workshop.bundle)
    return blocks


def remove_again(module: nn.Module, blocks: Any, bundle: Bundle) -> nn.Module:
    """Replace blocks of a fresh module by the identity."""
    for name in blocks:
        module.set_submodule(name, nn.Identity())
    return module


def removable_blocks(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the blocks without which the module still runs, in order; of nested ones the inner."""
    members = {
        f"{name}.{child}" if name else child: block
        for name, stack in module.named_modules()
        if isinstance(stack, (nn.Sequential, nn.ModuleList))
        for child, block in stack.named_children()
        if _layers(block) >= _LEAST_LAYERS
    }
    calls: dict[str, list[bool]] = {name: [] for name in members}
    observe(module, inputs, members, lambda name, given, result: calls[name].append(_keeps_shape(given, result)))
    able = [name for name, kept in calls.items() if kept == [True]]
    return [name for name in able if not any(other.startswith(f"{name}.") for other in able)]


def rank_blocks(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """The removable blocks, the least missed first; the module is as it was afterwards."""
    left = removable_blocks(module, inputs)
    reference, gone = _first_output(module, inputs), {}
    ranked: list[str] = []
    while left:
        moved = {}
        for name in left:
            block = module.get_submodule(name)
            module.set_submodule(name, nn.Identity())
            moved[name] = float((_first_output(module, inputs) - reference).square().mean())
            module.set_submodule(name, block)
        least = min(left, key=lambda name: moved[name])
        gone[least] = module.get_submodule(least)
        module.set_submodule(least, nn.Identity())
        ranked.append(least)
        left.remove(least)
    for name, block in gone.items():
        module.set_submodule(name, block)
    return ranked


def samples_of(bundle: Bundle) -> tuple[Tensor, ...]:
    """Calibration samples to rank by."""
    return tuple(tensors(bundle.split("calibration").take(slice(0, _RANKED_SAMPLES)).inputs))


def _first_output(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return outputs_of(module(*inputs))[0]


def _layers(block: nn.Module) -> int:
    return sum(1 for layer in block.modules() if next(layer.parameters(recurse=False), None) is not None)


def _keeps_shape(given: Any, result: Any) -> bool:
    return (
        len(given) == 1
        and isinstance(given[0], Tensor)
        and isinstance(result, Tensor)
        and (given[0].shape, given[0].dtype) == (result.shape, result.dtype)
    )


TECHNIQUES.register(BlockRemovalConfig.technique)(
    TorchTechnique(
        name=BlockRemovalConfig.technique,
        config=BlockRemovalConfig,
        why_not=why_not,
        choices=choices,
        apply=reshaping(remove),
        rebuild=remove_again,
        before=("channel_pruning",),
    )
)
