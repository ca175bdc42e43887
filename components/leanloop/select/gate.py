"""The gate: what a variant must show before it may replace the original.

Accuracy. The measured drop must lie within the goal, and the paired interval must not contradict it. A variant passes
when its drop is *shown* to be within the goal (the upper one-sided bound is), or when it is a *tie* with the original
(the lower one-sided bound is not above zero): ties are ties, and a small validation set cannot be asked for proof of a
difference that it cannot resolve. What is left out is a variant that is surely worse and not surely within the goal.

Classes. No class may fall by more than a floor beyond noise: the lower bound of its drop, at a confidence shared among
the classes, must not be above the floor.

Objective. The improvement over the best fp32 baseline that meets the same constraints must be real: its interval lies
above 1. When no baseline meets the constraints there is nothing to compete with, and meeting them is the improvement.

Constraints. Latency counts with the upper end of its interval; sizes and memory as measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from leanloop.bundle import Metric, classes_of, correct
from leanloop.core.contracts import Benchmark, Check, VariantBenchmark
from leanloop.core.settings import GoalSettings
from leanloop.select import formatting
from leanloop.select.objective import improvement, objective_value
from leanloop.select.paired import metric_drop, share_drop

CLASS_FLOOR = 0.05
"""A class may lose this share of right answers, or twice the goal's accuracy drop where that is more."""

ACCURACY_CHECKS = frozenset({"metric", "classes"})
CONSTRAINT_CHECKS = frozenset({"latency", "size", "memory"})


@dataclass(frozen=True)
class Evidence:
    """What the variants answered on the validation split.

    Attributes:
        metric: The owner's metric.
        truth: What the metric compares with: labels, or the original's outputs for ``agreement``.
        outputs: First output by variant id, [samples, ...].
        classification: Whether outputs are scores of classes.
        classes: Class names; empty when the owner gave none.
        recent: Which samples are live ones, booleans [samples]; the others are the owner's. Empty: none are.
        part: Of the validation split, as the checks name it.
    """

    metric: Metric
    truth: np.ndarray
    outputs: Mapping[str, np.ndarray]
    classification: bool
    classes: tuple[str, ...] = ()
    recent: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    part: str = "validation"

    @property
    def labels(self) -> np.ndarray:
        """The right class per sample; by the original's own answers where there are no labels."""
        return self.truth if self.metric.needs_labels else classes_of(self.truth)

    @property
    def golden(self) -> Evidence:
        """The owner's samples only; all where none are live."""
        rows = ~self.recent
        if rows.all() or not rows.any():
            return self
        outputs = {identity: values[rows] for identity, values in self.outputs.items()}
        return replace(self, truth=self.truth[rows], outputs=outputs, recent=self.recent[rows], part="golden")

    def score(self, identity: str) -> float:
        """The metric of a variant."""
        return self.metric.score(self.outputs[identity], self.truth)

    def class_name(self, index: int) -> str:
        """The name of a class, or its number."""
        return self.classes[index] if self.classes else f"class {index}"


def constraint_checks(variant: VariantBenchmark, goal: GoalSettings) -> list[Check]:
    """One check for each constraint that the goal names."""
    checks = []
    if goal.max_latency_ms is not None:
        measured = variant.at(goal.batch_size)
        percentile, found = ("p99", measured.p99_ms) if goal.minimise == "latency_p99" else ("p50", measured.p50_ms)
        checks.append(
            _limit_check("latency", found.high, goal.max_latency_ms, f"{percentile} latency", formatting.milliseconds)
        )
    if goal.max_size_bytes is not None:
        checks.append(_limit_check("size", variant.size_bytes, goal.max_size_bytes, "size", formatting.exact_bytes))
    if goal.max_memory_bytes is not None:
        checks.append(
            _limit_check("memory", variant.peak_memory_bytes, goal.max_memory_bytes, "peak memory", formatting.size)
        )
    return checks


def accuracy_checks(
    variant: VariantBenchmark, benchmark: Benchmark, evidence: Evidence, goal: GoalSettings, confidence: float
) -> list[Check]:
    """Whether a variant is as right as the goal asks, as a whole and class by class."""
    checks = [_metric_check(variant, benchmark, evidence, goal, confidence)]
    if evidence.classification:
        checks.append(_class_check(variant, benchmark, evidence, goal, confidence))
    return checks


def objective_check(variant: VariantBenchmark, benchmark: Benchmark, goal: GoalSettings, confidence: float) -> Check:
    """Whether a variant is really better than the best fp32 baseline that meets the goal's constraints."""
    baselines = [other for other in benchmark.variants if other.baseline]
    allowed = [baseline for baseline in baselines if meets(constraint_checks(baseline, goal), CONSTRAINT_CHECKS)]
    best = min(allowed or baselines, key=lambda baseline: objective_value(baseline, goal))
    ratio = improvement(best, variant, goal, confidence)
    found = f"{formatting.comparison(goal.minimise, ratio)} than {formatting.variant_name(best)}"
    if not allowed:
        note = f"{found}; no fp32 baseline meets the constraints, so meeting them is the improvement."
        return Check(name="objective", passed=True, value=ratio.low, limit=0.0, note=note)
    verdict = "a real improvement" if ratio.low > 1 else "a tie" if ratio.high >= 1 else "worse"
    return Check(name="objective", passed=ratio.low > 1, value=ratio.low, limit=1.0, note=f"{found}: {verdict}.")


def meets(checks: Iterable[Check], names: frozenset[str]) -> bool:
    """Whether all checks of these names passed."""
    return all(check.passed for check in checks if check.name in names)


def _limit_check(name: str, value: float, limit: float, what: str, words: Callable[[float], str]) -> Check:
    passed = value <= limit
    note = f"{what}: {words(value)}, {'within' if passed else 'above'} the limit of {words(limit)}."
    return Check(name=name, passed=passed, value=value, limit=limit, note=note[0].upper() + note[1:])


def _metric_check(
    variant: VariantBenchmark, benchmark: Benchmark, evidence: Evidence, goal: GoalSettings, confidence: float
) -> Check:
    metric, name = evidence.metric, benchmark.metric_name
    original, found = evidence.score(benchmark.original.id), evidence.score(variant.id)
    limit = metric.limit(original, goal.max_accuracy_drop)
    allowed = metric.drop(original, limit)
    drop = metric_drop(
        metric,
        evidence.truth,
        evidence.outputs[benchmark.original.id],
        evidence.outputs[variant.id],
        classification=evidence.classification,
        confidence=confidence,
    )
    better = 1 if metric.higher_is_better else -1
    bound = (
        f"{formatting.metric_change(name, -better * drop.high)} to {formatting.metric_change(name, -better * drop.low)}"
    )
    if not metric.meets(found, limit):
        passed, verdict = False, "outside the goal"
    elif drop.high <= allowed:
        passed, verdict = True, f"shown to be within the goal ({bound})"
    elif drop.low <= 0:
        passed, verdict = True, f"a tie with the original on {len(evidence.truth):,} samples ({bound})"
    else:
        passed, verdict = False, f"surely worse, and not surely within the goal ({bound})"
    side = "least" if metric.higher_is_better else "most"
    told, asked = formatting.metric(name, found), formatting.metric(name, limit)
    note = f"{evidence.part.capitalize()} {name} {told}, at {side} {asked} allowed: {verdict}."
    return Check(name="metric", passed=passed, value=found, limit=limit, note=note)


def _class_check(
    variant: VariantBenchmark, benchmark: Benchmark, evidence: Evidence, goal: GoalSettings, confidence: float
) -> Check:
    labels = evidence.labels
    before = correct(evidence.outputs[benchmark.original.id], labels)
    after = correct(evidence.outputs[variant.id], labels)
    present = np.unique(labels).tolist()
    shared = 1 - (1 - confidence) / len(present)
    drops = {index: share_drop(before[labels == index], after[labels == index], shared) for index in present}
    floor = max(CLASS_FLOOR, 2 * goal.max_accuracy_drop)
    collapsed = [index for index, drop in drops.items() if drop.low > floor]
    worst = max(collapsed or present, key=lambda index: drops[index].value)
    found = f"Worst class: {evidence.class_name(worst)}, {formatting.metric_change('accuracy', -drops[worst].value)}"
    rule = f"a class may lose {formatting.number(100 * floor)} points beyond noise"
    note = (
        f"{found}; {rule}."
        if not collapsed
        else f"{found}, and {len(collapsed)} of {len(present)} fall through the floor; {rule}."
    )
    return Check(name="classes", passed=not collapsed, value=drops[worst].value, limit=floor, note=note)
