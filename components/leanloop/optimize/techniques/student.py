"""A smaller architecture of the owner's own, trained from the original's answers.

Pruning keeps an architecture's form; an owner may know a better one: fewer stages, depthwise convolutions, a distilled
text encoder. ``model.student`` names a function that builds it, ``model.student_parameters`` the values to try for its
keyword arguments. Each combination is one network with fresh weights, which a distillation then trains. It must take
the original's inputs and give outputs of the same shapes.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015; Romero et al., "FitNets: Hints for
Thin Deep Nets", ICLR 2015.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from leanloop.bundle import Bundle
from leanloop.core.errors import BundleError, TrialError
from leanloop.optimize.techniques import channel_pruning
from leanloop.optimize.techniques.base import TECHNIQUES, Applied, Config, TorchTechnique, Workshop


@dataclass(frozen=True)
class StudentConfig(Config):
    """Which of the owner's networks.

    Attributes:
        arguments: Keyword arguments of the owner's function, as JSON.
        seed: Of its fresh weights.
    """

    technique: ClassVar[str] = "student"
    arguments: str = "{}"
    seed: int = 0


def why_not(bundle: Bundle) -> str | None:
    """Needs the owner's function, and training data."""
    if reason := channel_pruning.why_not(bundle):
        return reason
    return None if bundle.manifest.student else "the owner brought no smaller architecture (model.student)"


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[StudentConfig]:
    """All combinations of the owner's values, the network with the most weights first."""
    if bundle.manifest.student is None:
        return []
    parameters = bundle.manifest.student_parameters
    combinations = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*parameters.values())]
    configs = [StudentConfig(arguments=json.dumps(arguments, sort_keys=True)) for arguments in combinations]
    return sorted(configs, key=lambda config: -_weights(build(config, bundle)))


def build(config: StudentConfig, bundle: Bundle) -> nn.Module:
    """The network with fresh weights.

    Raises:
        TrialError: The owner's function fails, or returns no module.
    """
    assert bundle.manifest.student is not None
    torch.manual_seed(config.seed)
    try:
        student = bundle.owner_object(bundle.manifest.student)(**json.loads(config.arguments))
    except BundleError:
        raise
    except Exception as error:
        raise TrialError(
            "The student's function failed.",
            where=f"{bundle.manifest.student}, arguments {config.arguments}",
            value=f"{type(error).__name__}: {error}",
        ) from error
    if not isinstance(student, nn.Module):
        raise TrialError(
            "The student's function must return a torch.nn.Module.",
            where=bundle.manifest.student,
            value=type(student).__name__,
        )
    return student


def begin(module: nn.Module, config: StudentConfig, workshop: Workshop) -> Applied:
    """The student, instead of the original.

    Raises:
        TrialError: It does not run on the original's inputs, or answers in other shapes.
    """
    bundle = workshop.bundle
    student = build(config, bundle)
    inputs = channel_pruning.trace_inputs(bundle)
    channel_pruning.check_shapes(student.eval(), inputs, channel_pruning.shapes_of(module, inputs))
    return Applied(student, shapes=config.document())


def build_again(module: nn.Module, document: Any, bundle: Bundle) -> nn.Module:
    """The same student; its weights come from elsewhere."""
    return build(StudentConfig(arguments=document["arguments"], seed=document["seed"]), bundle)


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


TECHNIQUES.register(StudentConfig.technique)(
    TorchTechnique(
        name=StudentConfig.technique,
        config=StudentConfig,
        why_not=why_not,
        choices=choices,
        apply=begin,
        rebuild=build_again,
    )
)
