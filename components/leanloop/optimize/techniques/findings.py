"""What is known before a search, and what follows from it for the techniques.

A layer is fragile when the metric falls far more than elsewhere once half of its channels answer zero. With ``d`` the
drops of all layers (`leanloop.analyze.sensitivity`, ``prune_50``), and ``a`` what the goal allows, a layer is fragile
when all three hold::

    d(layer) is among the largest quarter of d
    d(layer) >= 2 * median(d)
    d(layer) > a

The first keeps the list short, the second tells layers that stand out from a network that is fragile everywhere, the
third leaves out what stands out but would hold the goal anyway.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017: sensitive layers are pruned less, or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

from leanloop.core.contracts import Analysis
from leanloop.core.settings import GoalSettings

_FRAGILE_SHARE = 0.25
_STANDS_OUT = 2.0
_MOST_DROP = 0.99


@dataclass(frozen=True)
class Findings:
    """What is known before a search, beside the bundle: all its workers have the same.

    Attributes:
        goal: What is wanted.
        analysis: Of the same bundle; None where there is none. A revision's has no sensitivities.
    """

    goal: GoalSettings
    analysis: Analysis | None = None


def fragile_layers(findings: Findings, layers: Collection[str]) -> list[str]:
    """Those layers of a network that pruning should leave whole, the most fragile first; none without an analysis.

    Args:
        findings: Whose analysis names layers as modules, and nodes of the graph for which no module is known.
        layers: Names of the network's modules that can be pruned; all else is passed over.
    """
    if findings.analysis is None:
        return []
    drops = {
        one.name: one.drop
        for one in findings.analysis.sensitivity
        if one.treatment == "prune_50" and one.name in layers
    }
    if not drops:
        return []
    least = max(_STANDS_OUT * median(drops.values()), 0.0)
    allowed = findings.goal.max_accuracy_drop * abs(findings.analysis.metric)
    worst = sorted(drops, key=lambda name: (-drops[name], name))[: max(1, int(_FRAGILE_SHARE * len(drops)))]
    return [name for name in worst if drops[name] >= least and drops[name] > allowed]


def drops_to_try(findings: Findings, usual: Sequence[float]) -> list[float]:
    """Drops of the metric that a technique may be allowed: all of the goal's first, then the usual ones below it."""
    allowed = min(findings.goal.max_accuracy_drop, _MOST_DROP)
    return [allowed, *(drop for drop in usual if drop < allowed)]
