"""A smaller architecture of the owner's own, trained from the original's answers.

Pruning keeps an architecture's form; an owner may know a better one: fewer stages, depthwise convolutions, a distilled
text encoder. ``model.student`` names a function that builds it, ``model.student_parameters`` the values to try for its
keyword arguments. Each combination is one network with fresh weights, which a distillation then trains. It must take
the original's inputs and give outputs of the same shapes.

Shapes: inside it is as the owner likes, at its ends as the original ``f``, for inputs ``x`` [N, ...] and all outputs::

    shape(student(x)) = shape(f(x))         student: fresh weights, drawn by a seed

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015; Romero et al., "FitNets: Hints for
Thin Deep Nets", ICLR 2015.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leanloop.bundle import Bundle
from leanloop.core.errors import BundleError, TrialError
from leanloop.core.events import emit
from leanloop.optimize.techniques import channel_pruning
from leanloop.optimize.techniques.base import TECHNIQUES, Applied, Config, TorchTechnique, Workshop

_NEXT_TO_NOTHING = 1e-3


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
    """Combinations of the owner's values from the largest network on; each has fewer weights and less to compute."""
    return next(iter(chains(bundle)), [])


def other_chains(bundle: Bundle, budget_minutes: float) -> dict[str, Sequence[StudentConfig]]:
    """The combinations that do not fit in between, by number, ordered likewise."""
    return {str(number): chain for number, chain in enumerate(chains(bundle)) if number}


def chains(bundle: Bundle) -> list[list[StudentConfig]]:
    """All combinations of the owner's values, in as few orders as possible in which both weights and work fall.

    A search takes what is further down a ladder for smaller *and* faster. Networks may differ otherwise: one with wide
    first layers has few weights and much to compute.

    Raises:
        TrialError: The owner's function can build none of them.
    """
    if bundle.manifest.student is None:
        return []
    parameters = bundle.manifest.student_parameters
    combinations = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*parameters.values())]
    sizes: list[tuple[int, int, StudentConfig]] = []
    failure: TrialError | None = None
    for arguments in combinations:
        config = StudentConfig(arguments=json.dumps(arguments, sort_keys=True))
        try:
            sizes.append((*_size(build(config, bundle), bundle), config))
        except TrialError as error:
            emit("left_alone", technique=config.technique, arguments=config.arguments, reason=error.what)
            failure = error
    if not sizes and failure is not None:
        raise failure
    found: list[list[tuple[int, StudentConfig]]] = []
    for _, work, config in sorted(sizes, key=lambda size: (-size[0], -size[1])):
        # First fit on the sorted weights gives the fewest chains: Dilworth (1950).
        fitting = next((chain for chain in found if chain[-1][0] >= work), None)
        if fitting is None:
            found.append([(work, config)])
        else:
            fitting.append((work, config))
    return [[config for _, config in chain] for chain in sorted(found, key=len, reverse=True)]


def _size(student: nn.Module, bundle: Bundle) -> tuple[int, int]:
    """Weights, and floating-point operations on a few samples."""
    weights = sum(parameter.numel() for parameter in student.parameters())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
            # The counter sees neither oneDNN's LSTM nor the fast path that a transformer layer takes without gradients.
            with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
                student.eval()(*channel_pruning.trace_inputs(bundle))
    except Exception as error:
        raise TrialError(
            "The student does not run on the original's inputs.",
            where=str(bundle.manifest.student),
            value=f"{type(error).__name__}: {error}",
        ) from error
    return weights, counter.get_total_flops()


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
    _unsettle(student)
    return student


def _unsettle(student: nn.Module) -> None:
    """Draw the means of fresh batch norms, next to nothing, where they are zero.

    A batch norm folds into the layer before it as a bias. A fresh one's is zero and is left out of the files, and so a
    student was a tenth smaller untrained than trained: within a limit of bytes that it then broke.
    """
    for layer in student.modules():
        mean = getattr(layer, "running_mean", None)
        if isinstance(mean, torch.Tensor):
            mean += torch.empty_like(mean).uniform_(-_NEXT_TO_NOTHING, _NEXT_TO_NOTHING)


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


TECHNIQUES.register(StudentConfig.technique)(
    TorchTechnique(
        name=StudentConfig.technique,
        config=StudentConfig,
        why_not=why_not,
        choices=choices,
        apply=begin,
        rebuild=build_again,
        further=other_chains,
        fresh=True,
    )
)
