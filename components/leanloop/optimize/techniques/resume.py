"""Going on with a student: a revision starts from the small network that serves, instead of making one anew.

A network that was pruned and then trained has its shapes and knows nearly all that a revision must know. Pruning the
revised parent instead breaks it, and most of the training that follows only mends that. So a revised bundle carries the
student of what serves (before it was quantised), in its folder ``student``: this technique gives the module its shapes
and weights, and a short fine-tuning with the revised parent as the teacher follows.

Shapes: with ``s(t)`` the student's weights after ``t`` steps and ``f`` the parent revised, the fine-tuning is the usual
one, from another place. All tensors have the served student's shapes, whatever the parent's are::

    s(0) = what serves         and not         s(0) = prune(f)

Source: starting from earlier weights is continual learning's plain rehearsal with distillation: Li and Hoiem, "Learning
without Forgetting", 2016; Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import safetensors.torch
from torch import nn

from leanloop.bundle import Bundle
from leanloop.core.files import read_json
from leanloop.optimize.techniques.base import (
    SHAPES,
    TECHNIQUES,
    WEIGHTS,
    Applied,
    Config,
    TorchTechnique,
    Workshop,
    reshape,
)


@dataclass(frozen=True)
class ResumeConfig(Config):
    """There is nothing to choose: a bundle has one student."""

    technique: ClassVar[str] = "resume"


def why_not(bundle: Bundle) -> str | None:
    """Only a revision of a bundle whose student was trained has one."""
    return None if (bundle.student / WEIGHTS).is_file() else "there is no student that could go on learning"


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[ResumeConfig]:
    """The one config."""
    return [ResumeConfig()]


def resume(module: nn.Module, config: ResumeConfig, workshop: Workshop) -> Applied:
    """Give a module the shapes and weights of the student; its shapes are what `reshape` takes."""
    folder = workshop.bundle.student
    shapes = read_json(folder / SHAPES)
    student = reshape(module, shapes, workshop.bundle)
    student.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    return Applied(student, shapes=shapes)


TECHNIQUES.register(ResumeConfig.technique)(
    TorchTechnique(
        name=ResumeConfig.technique,
        config=ResumeConfig,
        why_not=why_not,
        choices=choices,
        apply=resume,
        rebuild=reshape,
    )
)
