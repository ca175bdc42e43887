"""Blending: a network that went on learning, averaged with the one that it was, forgets less.

What is learnt anew costs a little of what was known. Between the weights ``w0`` before and ``w1`` after a fine-tuning,
of the same shapes, and so with the means and variances of batch norms::

    w(share) = w0 + share * (w1 - w0)

answers are good all along the line when both ends lie in one valley, which a gentle fine-tuning does not leave. Most of
what was gained is gained early on that line, and most of what was lost is lost late. So the share is chosen on the
validation samples: of those that keep `_NEARLY_ALL` of what is gained on recent samples, the one that loses least on
golden ones; and where even that cannot be shown to lose less than a point there, a smaller one that can.

Seen on Fashion-MNIST under noise, a pruned student before and after 1,200 steps (per cent of right answers, recent and
golden): 77.3 and 93.6 before, 91.3 and 92.9 after, 90.8 and 93.4 at a share of 0.7.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from leanloop.benchmark import noninferiority
from leanloop.bundle import Bundle, Metric
from leanloop.core.events import emit
from leanloop.optimize.techniques.base import TECHNIQUES, Applied, Config, TorchTechnique, Workshop, check
from leanloop.optimize.techniques.distillation import quick_answers
from leanloop.optimize.techniques.resume import ResumeConfig, resume
from leanloop.optimize.techniques.resume import why_not as why_no_student
from leanloop.runtime import kept_original_outputs

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4)
"""From all of what was learnt to less than half of it."""

_NEARLY_ALL = 0.95
_SAFE = 0.9
"""Of the point that a gate lets golden samples lose: what follows, such as quantisation, costs a little, too."""


@dataclass(frozen=True)
class BlendingConfig(Config):
    """Which blends are tried.

    Attributes:
        most: The largest share of what was learnt.
    """

    technique: ClassVar[str] = "blending"
    most: float = 1.0

    def __post_init__(self) -> None:
        check(0 < self.most <= 1, self, "most", "above 0 and up to 1")


@dataclass(frozen=True)
class Judged:
    """What a blend answers to validation samples.

    Attributes:
        share: Of what was learnt.
        recent: Metric on recent samples.
        golden: Metric on golden samples; None where there are none.
        at_most: Upper bound of what it loses on golden samples; 0 where there are none.
    """

    share: float
    recent: float
    golden: float | None
    at_most: float


def blend(
    before: nn.Module,
    after: nn.Module,
    answers_of: Callable[[nn.Module], np.ndarray],
    truth: np.ndarray,
    recent: np.ndarray,
    metric: Metric,
    *,
    most: float = 1.0,
) -> tuple[nn.Module, float]:
    """The blend that keeps what was gained and loses least of what was known.

    Args:
        before: The network as it was.
        after: The same after it learnt.
        answers_of: First output of a network on the validation samples, [samples, ...].
        truth: Of these samples, as the metric takes it.
        recent: Which of them are recent ones, booleans [samples]; the others are golden.
        metric: The owner's.
        most: The largest share.

    Returns:
        The network, and the share of what was learnt that is in it.
    """
    old = answers_of(before)
    judged = [
        _judge(share, old, answers_of(mixed(before, after, share)), truth, recent, metric)
        for share in (most, *(one for one in SHARES if one < most))
    ]
    known = metric.score(old[recent], truth[recent])
    point = 0.0 if recent.all() else metric.point(metric.score(old[~recent], truth[~recent]))
    chosen = choose(judged, known, _SAFE * point, metric)
    emit("blended", share=chosen.share, recent=chosen.recent, golden=chosen.golden)
    return mixed(before, after, chosen.share), chosen.share


def choose(judged: Sequence[Judged], known: float, allowed: float, metric: Metric) -> Judged:
    """The blend to take.

    Args:
        judged: All of them, that of the largest share first.
        known: Metric on recent samples before anything was learnt.
        allowed: What golden samples may lose.
        metric: The owner's.
    """

    def gained(one: Judged) -> float:
        return -metric.drop(known, one.recent)

    most = max(map(gained, judged))
    if judged[0].golden is None or most <= 0:
        return judged[0]
    enough = [one for one in judged if gained(one) >= _NEARLY_ALL * most]
    best = min(enough, key=lambda one: one.at_most)
    if best.at_most <= allowed:
        return best
    return next((one for one in judged if one.at_most <= allowed and gained(one) > 0), best)


def mixed(before: nn.Module, after: nn.Module, share: float) -> nn.Module:
    """A network on the line between two others; numbers that are not floats are those of the later one."""
    found, first, last = copy.deepcopy(after), before.state_dict(), after.state_dict()
    state = {
        name: first[name] + share * (values - first[name]) if values.is_floating_point() else values
        for name, values in last.items()
    }
    found.load_state_dict(state)
    return found


def why_not(bundle: Bundle) -> str | None:
    """Only what resumed a student has weights from before."""
    return why_no_student(bundle)


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[BlendingConfig]:
    """The one config."""
    return [BlendingConfig()]


def shorten(config: BlendingConfig, bundle: Bundle) -> BlendingConfig:
    """Itself: it is part of a training, and only where there is one there is something to blend."""
    return config


def blending(module: nn.Module, config: BlendingConfig, workshop: Workshop) -> Applied:
    """Blend a resumed student with what it was."""
    bundle = workshop.bundle
    before = resume(bundle.module(), ResumeConfig(), workshop).module
    validation, recent = bundle.split("validation"), bundle.fresh_rows("validation")
    if not recent.any():
        return Applied(module)
    found, _ = blend(
        before,
        module,
        lambda one: quick_answers(bundle, one, validation, workshop.threads)[bundle.manifest.outputs[0]],
        bundle.truth(validation, lambda: kept_original_outputs(bundle, validation, workshop.store)),
        recent,
        bundle.metric,
        most=config.most,
    )
    return Applied(found)


def _judge(
    share: float, before: np.ndarray, after: np.ndarray, truth: np.ndarray, recent: np.ndarray, metric: Metric
) -> Judged:
    new, golden = metric.score(after[recent], truth[recent]), ~recent
    if not golden.any():
        return Judged(share, new, None, 0.0)
    lost = noninferiority(metric, before[golden], after[golden], truth[golden], margin=0.0)
    return Judged(share, new, metric.score(after[golden], truth[golden]), lost.upper_bound)


TECHNIQUES.register(BlendingConfig.technique)(
    TorchTechnique(
        name=BlendingConfig.technique,
        config=BlendingConfig,
        why_not=why_not,
        choices=choices,
        apply=blending,
        shorten=shorten,
        continues=True,
    )
)
