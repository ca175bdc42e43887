"""How the channels of a network hang together, and how many of a layer's stay.

A channel of one layer is tied to others: through a residual sum, a batch norm, a grouped convolution. Torch-Pruning's
dependency graph knows the ties; here it is asked for what pruning must know: which layers' channels are the model's
outputs, which lie in equal parts, which are free while others stay whole.

Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from leanloop.core.errors import TrialError
from leanloop.optimize.techniques.masks import LAYERS, layers_of
from leanloop.optimize.techniques.observe import observe


def trace_graph(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Torch-Pruning's graph of what hangs on what."""
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(module, inputs)


def output_layers(module: nn.Module, graph: Any) -> list[nn.Module]:
    """Layers whose channels are the model's outputs: no other layer reads them on the way out."""
    return [layer for layer in layers_of(module) if layer in graph.module2node and _reaches_output(layer, graph)]


def _reaches_output(layer: nn.Module, graph: Any) -> bool:
    waiting, seen = [graph.module2node[layer]], set()
    while waiting:
        node = waiting.pop()
        if not node.outputs:
            return True
        for after in node.outputs:
            if id(after) not in seen and not isinstance(after.module, LAYERS):
                seen.add(id(after))
                waiting.append(after)
    return False


def free_layers(graph: Any, protected: Sequence[nn.Module]) -> list[nn.Module]:
    """Layers that can lose channels while some others, and what is tied to them, stay whole."""
    groups = graph.get_all_groups(ignored_layers=list(protected), root_module_types=list(LAYERS))
    found = (dep.target.module for group in groups for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler))
    return list(dict.fromkeys(layer for layer in found if isinstance(layer, LAYERS)))


def stages_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[nn.Module, int]:
    """The stage of each layer with channels, from 0: all whose outputs have one resolution, in the order of calling."""
    seen: dict[tuple[int, ...], int] = {}
    found: dict[nn.Module, int] = {}

    def note(name: str, _: Any, result: Tensor) -> None:
        convolves = isinstance(layers[name], nn.modules.conv._ConvNd)
        resolution = tuple(result.shape[2:]) if convolves else ()
        found.setdefault(layers[name], seen.setdefault(resolution, len(seen)))

    ends = output_layers(module, trace_graph(module, inputs))
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAYERS) and layer not in ends}
    observe(module, inputs, layers, note)
    return found


def kept_channels(width: int, ratio: float, round_to: int) -> int:
    """How many of a layer's channels stay: the nearest multiple of the largest unit that is not more than all of them.

    Torch-Pruning's own rounding goes down, and leaves a layer whole when nothing would be left of it.
    """
    return nearest(width, width * (1 - ratio), round_to)


def nearest(width: int, keep: float, round_to: int) -> int:
    """`kept_channels` where the number of channels to keep is known."""
    unit = round_to
    while unit > max(keep, 1):
        unit //= 2
    return min(width, max(1, round(keep / unit) * unit))


def ratios_of(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    graph: Any,
    ends: Sequence[nn.Module],
    ratio: float,
    by_stage: Sequence[float],
    round_to: int,
) -> dict[nn.Module, float]:
    """What Torch-Pruning must be told so that each layer keeps what `kept_channels` says.

    Args:
        module: The network.
        inputs: A few samples to run it on.
        graph: Of `trace_graph`.
        ends: Layers that stay whole.
        ratio: Share of the channels to remove.
        by_stage: Ratios by stage instead; empty for the same everywhere.
        round_to: Channel counts stay multiples of this.

    Raises:
        TrialError: The network has another number of stages.
    """
    stages = stages_of(module, inputs) if by_stage else {}
    count, parts = len(set(stages.values())), parts_of(graph)
    if count != len(by_stage):
        raise TrialError("The network has another number of stages.", value=list(by_stage), fix=f"It has {count}.")

    def exact(layer: nn.Module) -> float:
        its, many = by_stage[stages[layer]] if layer in stages else ratio, parts.get(layer, 1)
        width = width_of(layer) // many
        # Half a channel more, since Torch-Pruning truncates ``width * (1 - ratio)``.
        return max(0.0, 1 - (kept_channels(width, its, max(1, round_to // many)) + 0.5) / width)

    return {layer: exact(layer) for layer in layers_of(module) if layer not in ends}


def parts_of(graph: Any) -> dict[nn.Module, int]:
    """Of layers whose channels are grouped, by themselves or by what reads them, in how many equal parts they lie.

    Each part keeps as many as the others, and one at least: where all would go, Torch-Pruning takes none at all.
    """
    found: dict[nn.Module, int] = {}
    for group in graph.get_all_groups(root_module_types=list(LAYERS)):
        count = max(_groups(dependency.target.module) for dependency, _ in group)
        found |= {
            dependency.target.module: count
            for dependency, _ in group
            if graph.is_out_channel_pruning_fn(dependency.handler) and isinstance(dependency.target.module, LAYERS)
        }
    return found


def _groups(layer: nn.Module) -> int:
    """Of channels that must stay equally many; a depthwise convolution has none, since channels go with their group."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups < layer.out_channels:
        return layer.groups
    return 1


def width_of(layer: nn.Module) -> int:
    """How many output channels a layer has."""
    return int(layer.weight.shape[0])  # type: ignore[index]
