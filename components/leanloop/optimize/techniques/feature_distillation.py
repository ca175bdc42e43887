"""Distillation of where a network looks: the student's attention maps follow the original's, layer by layer.

Logits say what the teacher thinks, its attention maps where it looked. The map of a layer's output ``A`` has the same
shape whatever the number of channels, so that a pruned student can follow::

    q(A) = m / ||m||_2,    m = mean over channels of A^2          A: [N, C, H, W] -> [N, H * W], or [N, T, C] -> [N, T]

    loss = distillation_loss + beta * mean over layers of mean((q(student) - q(teacher))^2) * positions

``positions`` (H * W) makes ``beta`` mean the same at every resolution. Maps are taken at the last layer of every
resolution that both networks have, averaged to at most 14 x 14, computed once for the teacher and kept in the store.

Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from leanloop.bundle import Bundle, tensors
from leanloop.core.errors import TrialError
from leanloop.core.measure_lock import TrainingTurn
from leanloop.optimize.techniques import distillation
from leanloop.optimize.techniques.base import TECHNIQUES, TorchTechnique, Workshop, check, fine_tuning
from leanloop.optimize.techniques.distillation import DistillationConfig, distil
from leanloop.optimize.techniques.observe import observe
from leanloop.optimize.techniques.training import channels_last, has_bf16

_MOST_POSITIONS = 14
_TRACED = 2
_BATCH = 128


@dataclass(frozen=True)
class FeatureDistillationConfig(DistillationConfig):
    """How long to fine-tune, and on which loss.

    Attributes:
        beta: Weight of the attention maps beside the logits and labels.
    """

    technique: ClassVar[str] = "feature_distillation"
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.beta > 0, self, "beta", "above 0")


def why_not(bundle: Bundle) -> str | None:
    """As for distillation; and some layer must give a map or a sequence."""
    if reason := distillation.why_not(bundle):
        return reason
    if not mapped_layers(bundle.module(), _traced(bundle)):
        return "no layer gives a map or a sequence, so there is no attention to follow"
    return None


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[FeatureDistillationConfig]:
    """As long as a distillation."""
    return [FeatureDistillationConfig(**asdict(distillation.choices(bundle, budget_minutes)[0]))]


def distil_features(module: nn.Module, config: FeatureDistillationConfig, workshop: Workshop) -> float:
    """Fine-tune in place.

    Returns:
        Seconds per sample, by the median step.

    Raises:
        TrialError: The student has no map of a resolution that the teacher has, or the loss is no longer a number.
    """
    inputs = _traced(workshop.bundle)
    theirs, mine = mapped_layers(workshop.bundle.module(), inputs), mapped_layers(module, inputs)
    pairs = {mine[resolution]: theirs[resolution] for resolution in theirs if resolution in mine}
    if not pairs:
        raise TrialError(
            "The student has no map or sequence of a resolution that the original has.",
            value=f"{list(mine)}, not {list(theirs)}",
        )
    kept = teacher_maps(workshop)
    maps = {name: torch.from_numpy(kept[teacher]) for name, teacher in pairs.items()}
    with Watched(module, list(pairs)) as seen:

        def of_maps(rows: Tensor) -> Tensor:
            found = seen.maps()
            distances = [
                (found[name] - maps[name][rows].float()).square().mean() * found[name].shape[1] for name in pairs
            ]
            return config.beta * torch.stack(distances).mean()

        return distil(module, config, workshop, beside=of_maps)


class Watched:
    """The attention maps of some layers, of the last forward pass.

    Args:
        module: Whose layers.
        layers: Their names.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str]) -> None:
        self._module, self._layers = module, layers
        self._outputs: dict[str, Tensor] = {}

    def __enter__(self) -> Watched:
        def keep(name: str, result: Any) -> None:
            self._outputs[name] = _features(result)

        self._hooks = [
            self._module.get_submodule(name).register_forward_hook(
                lambda _module, _given, result, name=name: keep(name, result)
            )
            for name in self._layers
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def maps(self) -> dict[str, Tensor]:
        """By layer, [samples, positions]."""
        return {name: attention_map(self._outputs[name]) for name in self._layers}


def attention_map(features: Tensor) -> Tensor:
    """``mean over channels of A^2``, of unit length: [N, C, H, W] or [N, T, C] -> [N, positions]."""
    energy = features.float().square().mean(1 if features.ndim == 4 else -1)
    if energy.ndim == 3 and max(energy.shape[1:]) > _MOST_POSITIONS:
        height, width = (min(length, _MOST_POSITIONS) for length in energy.shape[1:])
        energy = functional.adaptive_avg_pool2d(energy.unsqueeze(1), (height, width)).squeeze(1)
    return functional.normalize(energy.flatten(1), dim=1)


def mapped_layers(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[tuple[int, ...], str]:
    """By resolution, the last module whose outputs are maps or sequences of it, in order of calling."""
    order: list[tuple[str, torch.Size]] = []
    layers = {name: layer for name, layer in module.named_modules() if name}
    observe(module, inputs, layers, lambda name, _, result: _note(order, name, _features(result), len(inputs[0])))
    last: dict[tuple[int, ...], str] = {}
    for name, shape in order:
        resolution = tuple(shape[2:]) if len(shape) == 4 else (shape[1],)
        if np.prod(resolution) > 1:
            last[resolution] = name
    return last


def teacher_maps(workshop: Workshop) -> dict[str, np.ndarray]:
    """The original's maps on all training samples, float16, by layer; computed once per bundle, kept in the store."""
    key = f"teachers/{workshop.bundle.manifest.digest}-maps"
    return distillation.kept_arrays(workshop.store, key, lambda: _run_teacher(workshop))


def _run_teacher(workshop: Workshop) -> dict[str, np.ndarray]:
    torch.set_num_threads(workshop.threads)
    bundle = workshop.bundle
    module, turn = bundle.module(), TrainingTurn()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts: list[dict[str, np.ndarray]] = []
    try:
        with Watched(module, list(mapped_layers(module, _traced(bundle)).values())) as seen:
            for batch in bundle.clean_split("train").batches(_BATCH):
                with turn, torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
                    module(*map(channels_last, tensors(batch.inputs)))
                    parts.append({name: values.half().numpy() for name, values in seen.maps().items()})
    finally:
        turn.close()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prepare(workshop: Workshop) -> object:
    """What the teacher says, and where it looks."""
    return distillation.teacher_outputs(workshop), teacher_maps(workshop)


def _features(result: Any) -> Any:
    """What a layer gives, of several things the first: a recurrent layer gives its sequence, then its state."""
    return result[0] if isinstance(result, tuple) and result else result


def _note(order: list[tuple[str, torch.Size]], name: str, features: Any, samples: int) -> None:
    maps = isinstance(features, Tensor) and features.ndim in (3, 4) and features.is_floating_point()
    # Where the first axis counts steps and not samples, there is no map of a sample.
    if maps and len(features) == samples:
        order.append((name, features.shape))


def _traced(bundle: Bundle) -> tuple[Tensor, ...]:
    return tuple(values[:_TRACED] for values in tensors(bundle.samples))


TECHNIQUES.register(FeatureDistillationConfig.technique)(
    TorchTechnique(
        name=FeatureDistillationConfig.technique,
        config=FeatureDistillationConfig,
        why_not=why_not,
        choices=choices,
        apply=fine_tuning(distil_features),
        shorten=distillation.shorten,
        prepare=prepare,
        work=distillation.work,
        scale=distillation.scale,
        anew=distillation.anew,
    )
)
