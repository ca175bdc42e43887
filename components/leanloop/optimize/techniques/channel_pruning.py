"""Structured channel pruning: remove whole channels, so that what is left is a smaller dense network.

A channel of one layer is tied to others: the batch-norm behind it, the layer that reads it, and, through a residual
sum, channels of other layers. Torch-Pruning traces these ties and removes a group as one. Within each group the
channels of least importance go, or the least important ones of the whole network; importance is the L2 norm of a
channel's weights over its group, or, by Taylor expansion, how much the loss would change without it:
``|sum(w * dL/dw)|``, with ``L`` the labels' loss on 512 training samples, drawn.

Shapes: keeping a share ``k`` of all channels keeps about ``k^2`` of the weights and of the multiply-adds. How much time
that saves is another matter (kernels like multiples of 8 and 16), so the search measures it. Batch norms are seen anew
afterwards (`leanloop.optimize.techniques.recalibration`), and before each further round.

Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023; Molchanov et al., "Importance Estimation for
Neural Network Pruning", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from leanloop.bundle import Bundle, Split, tensors
from leanloop.core.errors import TrialError
from leanloop.core.events import emit
from leanloop.core.hardware import vector_lanes
from leanloop.optimize.techniques.base import TECHNIQUES, Config, TorchTechnique, Workshop, check, reshaping
from leanloop.optimize.techniques.channel_groups import (
    free_layers,
    kept_channels,
    output_layers,
    ratios_of,
    stages_of,
    trace_graph,
    width_of,
)
from leanloop.optimize.techniques.distillation import labels_loss
from leanloop.optimize.techniques.findings import Findings, fragile_layers
from leanloop.optimize.techniques.masks import LAYERS, layers_of
from leanloop.optimize.techniques.recalibration import recalibrate
from leanloop.optimize.techniques.training import outputs_of

_TRACE_SAMPLES = 2
_TAYLOR_SAMPLES, _TAYLOR_BATCH = 512, 64
_STEPS = 16
_ROUNDS = 4
_MOST = 0.9
_TIED = "their sizes are fixed by the network's own code, so that it breaks when they change"
_BREAKS = (TrialError, RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError, AssertionError)
"""What Torch-Pruning, or a network that it took too much out of, raises."""


@dataclass(frozen=True)
class ChannelPruningConfig(Config):
    """How many channels to remove, and which.

    Attributes:
        ratio: Share of the channels to remove from each group.
        stages: Ratios by stage instead, separated by commas: layers whose outputs have one resolution are a stage, in
            the order in which they are called. Empty: `ratio` everywhere.
        round_to: Channel counts stay multiples of this; narrower layers, of the next smaller power of two.
        importance: ``magnitude`` or ``taylor`` (needs labels).
        scope: ``group`` takes the same share from each group of tied layers, ``global`` the least important channels of
            the whole network, at most about nine tenths of a layer.
        steps: In how many rounds; importance is looked at anew before each.
        protect: Names of layers to leave alone, separated by commas: those that an analysis found sensitive.
    """

    technique: ClassVar[str] = "channel_pruning"
    version: int = 4
    ratio: float = 0.5
    round_to: int = 8
    importance: str = "magnitude"
    stages: str = ""
    scope: str = "group"
    steps: int = 1
    protect: str = ""

    def __post_init__(self) -> None:
        check(0 < self.ratio < 1, self, "ratio", "between 0 and 1")
        check(self.scope in ("group", "global"), self, "scope", "group or global")
        check(self.scope == "group" or not self.stages, self, "scope", "group where there are ratios by stage")
        check(self.steps >= 1, self, "steps", "at least 1")
        check(self.round_to >= 1, self, "round_to", "at least 1")
        check(self.importance in ("magnitude", "taylor"), self, "importance", "magnitude or taylor")
        check(all(0 <= ratio < 1 for ratio in self.by_stage), self, "stages", "numbers from 0 up to 1, or empty")

    @property
    def by_stage(self) -> tuple[float, ...]:
        """`stages` as numbers."""
        return tuple(float(ratio) for ratio in self.stages.split(",")) if self.stages else ()


def why_not(bundle: Bundle) -> str | None:
    """Pruned networks need fine-tuning, and so an architecture in code and training data."""
    if bundle.manifest.kind != "factory":
        return f"post-training techniques only: a {bundle.manifest.kind} model has no factory that can be reshaped"
    if "train" not in bundle.manifest.splits:
        return "post-training techniques only: there is no training data to fine-tune on"
    return None


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[ChannelPruningConfig]:
    """Ratios from 1/16 to 15/16; channel counts stay as round as the narrowest layer allows.

    Multiples of 8 are what all instruction sets bear (a vector of AVX2, half of one of AVX-512, two of NEON). Whole
    vectors everywhere would leave narrow layers no rungs, and what a width costs in time is measured anyway.
    """
    module = bundle.module()
    ends = output_layers(module, _trace(module, bundle))
    narrowest = min((width_of(layer) for layer in layers_of(module) if layer not in ends), default=1)
    round_to = next(size for size in (8, 4, 2, 1) if narrowest >= 8 * size or size == 1)
    return [ChannelPruningConfig(ratio=step / _STEPS, round_to=round_to) for step in range(1, _STEPS)]


def further(bundle: Bundle, budget_minutes: float) -> dict[str, Sequence[ChannelPruningConfig]]:
    """Stages of unequal width, and, where labels tell what the loss is, the least important of the whole network."""
    return narrower(bundle, budget_minutes) | whole_network(bundle, budget_minutes)


def whole_network(bundle: Bundle, budget_minutes: float) -> dict[str, Sequence[ChannelPruningConfig]]:
    """A ladder of what the loss misses least, wherever it is, a few channels at a time, in whole vectors of the CPU.

    It begins above a quarter, from where `nearest` takes something out of one layer at least; and ends below what every
    layer keeps.
    """
    if not bundle.manifest.splits["train"].labelled:
        return {}
    usual = ChannelPruningConfig(round_to=vector_lanes(), importance="taylor", scope="global", steps=_ROUNDS)
    ratios = [step / _STEPS for step in range(_STEPS // 4 + 1, _STEPS) if step / _STEPS < _MOST]
    return {"of the whole network": [replace(usual, ratio=ratio) for ratio in ratios]}


def around_fragile(
    bundle: Bundle, budget_minutes: float, findings: Findings
) -> dict[str, Sequence[ChannelPruningConfig]]:
    """The usual ratios everywhere but in the layers that the analysis found fragile, and those tied to them."""
    module = bundle.module()
    graph = _trace(module, bundle)
    ends = output_layers(module, graph)
    names = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAYERS) and layer not in ends}
    fragile = fragile_layers(findings, names)
    if not fragile:
        return {}
    widths = {width_of(layer) for layer in free_layers(graph, [*ends, *(names[name] for name in fragile)])}
    ladder = [
        replace(config, protect=",".join(fragile))
        for config in choices(bundle, budget_minutes)
        # What takes nothing out would end the ladder as a failure.
        if any(kept_channels(width, config.ratio, config.round_to) < width for width in widths)
    ]
    return {"around fragile layers": ladder} if ladder else {}


def narrower(bundle: Bundle, budget_minutes: float) -> dict[str, Sequence[ChannelPruningConfig]]:
    """Ladders that take a quarter more of what is left out of one stage: the first ones cost time, the last ones bytes.

    How much accuracy a stage's channels are worth differs from network to network; so does their time from machine to
    machine. What a ladder buys is measured, as for equal ratios.
    """
    count = len(set(stages_of(bundle.module(), trace_inputs(bundle)).values()))
    if count < 2:
        return {}

    def narrowed(config: ChannelPruningConfig, stage: int) -> ChannelPruningConfig:
        ratios = [config.ratio] * count
        ratios[stage] += (1 - config.ratio) / 4
        return replace(config, stages=",".join(f"{ratio:g}" for ratio in ratios))

    usual = choices(bundle, budget_minutes)
    return {f"stage {stage + 1} narrower": [narrowed(config, stage) for config in usual] for stage in range(count)}


def prune(module: nn.Module, config: ChannelPruningConfig, workshop: Workshop) -> Any:
    """Prune in place.

    Layers that cannot be pruned by themselves without breaking the network (fused attention projections, sizes written
    into `forward`) are left alone where others can be.

    Returns:
        The history ``[[layer, is_output_channels, indices], ...]`` that `replay` takes.

    Raises:
        TrialError: Nothing could be removed, or the model does not run, or answers in other shapes, afterwards.
    """
    bundle = workshop.bundle
    inputs = trace_inputs(bundle)
    ends = set(output_layers(module, _trace(module, bundle)))
    names = {name for name, layer in module.named_modules() if isinstance(layer, LAYERS) and layer not in ends}
    protected = set(config.protect.split(",")) if config.protect else set()
    if unknown := sorted(protected - names):
        raise TrialError("There are no such layers to protect.", value=", ".join(unknown))
    names -= protected
    if not names:
        raise TrialError(
            "No channel can be removed: every layer gives the model's outputs or is protected.",
            fix="Leave this technique out.",
        )
    try:
        history = _history(module, names, inputs, config, bundle)
    except _BREAKS as error:
        broken = {name for name in names if _breaks(module, name, inputs, config, bundle)}
        if broken in (set(), names):
            raise _cannot(error) from error
        emit("left_alone", technique=config.technique, layers=sorted(broken), reason=_TIED)
        try:
            history = _history(module, names - broken, inputs, config, bundle)
        except _BREAKS as again:
            raise _cannot(again) from again
    if not history:
        raise TrialError(
            "No channel can be removed: at this ratio each layer keeps all that it has, in such multiples.",
            value=f"ratio {config.ratio}, multiples of {config.round_to}",
            fix="Take a larger ratio, or a smaller multiple (round_to).",
        )
    replay(module, history, bundle)
    recalibrate(module, bundle)
    return history


def _history(
    module: nn.Module, names: Collection[str], inputs: tuple[Tensor, ...], config: ChannelPruningConfig, bundle: Bundle
) -> list[list[Any]]:
    """What to take out of the named layers, and what hangs on them; tried on a copy, which must run afterwards."""
    import torch_pruning

    from leanloop.optimize.techniques.whole_network import WholeNetworkPruner

    copy = deepcopy(module)
    before = shapes_of(copy, inputs)
    compared = config.scope == "global"
    alone = [layer for name, layer in copy.named_modules() if isinstance(layer, LAYERS) and name not in names]
    graph = trace_graph(copy, inputs)
    ends = output_layers(copy, graph)
    # Torch-Pruning's mutable default arguments leak one model's modules into the next pruner: pass fresh ones.
    pruner = (WholeNetworkPruner if compared else torch_pruning.pruner.BasePruner)(
        copy,
        inputs,
        importance=(
            torch_pruning.importance.GroupTaylorImportance()
            if config.importance == "taylor"
            else torch_pruning.importance.GroupMagnitudeImportance(p=2)
        ),
        pruning_ratio=config.ratio,
        pruning_ratio_dict={}
        if compared
        else ratios_of(copy, inputs, graph, ends, config.ratio, config.by_stage, config.round_to),
        max_pruning_ratio=_MOST if compared else 1.0,
        round_to=config.round_to if compared else None,
        iterative_steps=config.steps,
        ignored_layers=alone,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={layer: layer.num_heads for layer in copy.modules() if isinstance(layer, nn.MultiheadAttention)},
        root_module_types=list(LAYERS),
    )
    for round_ in range(config.steps):
        if round_:
            recalibrate(copy, bundle)
        if config.importance == "taylor":
            gather_gradients(copy, bundle)
        pruner.step()
    check_shapes(copy, inputs, before)
    return [
        [name, bool(output), [int(index) for index in indices]]
        for name, output, indices in pruner.pruning_history()
        if len(indices)
    ]


def _breaks(
    module: nn.Module, name: str, inputs: tuple[Tensor, ...], config: ChannelPruningConfig, bundle: Bundle
) -> bool:
    try:
        _history(module, {name}, inputs, config, bundle)
    except _BREAKS:
        return True
    return False


def _cannot(error: Exception) -> TrialError:
    if isinstance(error, TrialError):
        return error
    return TrialError("The network cannot be taken apart.", value=f"{type(error).__name__}: {error}")


def replay(module: nn.Module, history: Any, bundle: Bundle) -> nn.Module:
    """Give a fresh module the shapes of a pruned one."""
    _trace(module, bundle).load_pruning_history([(name, output, indices) for name, output, indices in history])
    return module


def _trace(module: nn.Module, bundle: Bundle) -> Any:
    return trace_graph(module, trace_inputs(bundle))


def trace_inputs(bundle: Bundle) -> tuple[Tensor, ...]:
    """A few samples to run a network on."""
    return tuple(values[:_TRACE_SAMPLES] for values in tensors(bundle.samples))


def shapes_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[torch.Size]:
    """Of a network's outputs, in order."""
    with torch.no_grad():
        result = module(*inputs)
    values = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else [result]
    return [value.shape for value in values]


def check_shapes(module: nn.Module, inputs: tuple[Tensor, ...], before: list[torch.Size]) -> None:
    """Refuse a changed network that does not run, or answers in other shapes.

    Raises:
        TrialError: It is one.
    """
    try:
        after = shapes_of(module, inputs)
    except RuntimeError as error:
        raise TrialError(
            "The changed model does not run: its forward function has sizes written into it.", value=error
        ) from error
    if after != before:
        raise TrialError("The shape of the outputs has changed.", value=f"{after}, not {before}")


def taylor_samples(split: Split) -> Split:
    """The samples whose gradients tell importance: drawn, since an owner's may be sorted by class; always the same."""
    rows = np.random.default_rng(0).permutation(len(split))[:_TAYLOR_SAMPLES]
    return split.take(np.sort(rows))


def gather_gradients(module: nn.Module, bundle: Bundle) -> None:
    """Leave the gradients of the mean loss over `taylor_samples` in a network in eval mode.

    Raises:
        TrialError: There are no labels.
    """
    part = taylor_samples(bundle.split("train"))
    if part.targets is None:
        raise TrialError("Taylor importance needs labelled training data.", fix="Use importance: magnitude.")
    module.zero_grad()
    # In pieces: what is kept for the way back is 0.9 GiB for all samples of a small residual network at once.
    targets = torch.split(torch.from_numpy(part.targets), _TAYLOR_BATCH)
    for piece, wanted in zip(part.batches(_TAYLOR_BATCH), targets, strict=True):
        loss = labels_loss(outputs_of(module(*tensors(piece.inputs)))[0], wanted, bundle.manifest.task)
        (loss * (len(piece) / len(part))).backward()  # type: ignore[no-untyped-call]


TECHNIQUES.register(ChannelPruningConfig.technique)(
    TorchTechnique(
        name=ChannelPruningConfig.technique,
        config=ChannelPruningConfig,
        why_not=why_not,
        choices=choices,
        apply=reshaping(prune),
        rebuild=replay,
        further=further,
        informed=around_fragile,
    )
)
