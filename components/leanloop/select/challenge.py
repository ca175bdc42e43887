"""The gate of a re-optimisation: a challenger against the champion, both measured now, side by side.

On the golden samples, which the owner brought, a challenger may lose at most a point, and noise must not stand against
it: either that is shown (the paired one-sided bound of its loss lies within the point), or no loss can be told at all
(the other bound is not above zero). So 5,000 samples, which can tell, let half a point pass; some hundreds, which could
not show a point's loss to be impossible, let pass what they do not see.

What the re-optimisation is for must really get better: answers on the recent samples (by labels, or by the parent's
answers), or the latency. What it is not for must not get worse: on recent samples as on golden ones, or beyond noise by
a tenth of the latency.

The owner's own accuracy goal compares a challenger with the revised parent. Recent samples may be so hard that nothing
small comes so near to the parent there, and refusing all of it would leave the worse champion in place. So where
answers must get better, the goal is a duty on the golden samples only; who also holds it on all samples is preferred
(see `leanloop.select.decision`), and the verdict says when nobody does.
"""

from __future__ import annotations

import numpy as np

from leanloop.core.contracts import Benchmark, Challenge, Check, Interval, VariantBenchmark
from leanloop.core.loop_contracts import MAY_BE_SLOWER
from leanloop.core.settings import GoalSettings
from leanloop.select import formatting
from leanloop.select.gate import Evidence
from leanloop.select.objective import speedup
from leanloop.select.paired import metric_drop

CHALLENGE_CHECKS = ("golden", "recent", "speed")


def judged_by_the_goal(evidence: Evidence, challenge: Challenge | None) -> Evidence:
    """The samples on which the owner's accuracy goal must hold."""
    return evidence if challenge is None or challenge.aim == "latency" else evidence.golden


def challenge_checks(
    variant: VariantBenchmark,
    benchmark: Benchmark,
    evidence: Evidence,
    challenge: Challenge,
    goal: GoalSettings,
    confidence: float,
) -> list[Check]:
    """Whether a challenger is better than the champion where it must be, and nowhere worse."""
    recent = evidence.recent
    checks = []
    if not recent.all():
        checks.append(_kept("golden", ~recent, variant, benchmark, evidence, challenge, confidence))
    if recent.any() and challenge.aim == "latency":
        checks.append(_kept("recent", recent, variant, benchmark, evidence, challenge, confidence))
    elif recent.any():
        checks.append(_better(recent, variant, benchmark, evidence, challenge, confidence))
    return [*checks, _speed(variant, benchmark, challenge, goal, confidence)]


def _kept(
    part: str,
    rows: np.ndarray,
    variant: VariantBenchmark,
    benchmark: Benchmark,
    evidence: Evidence,
    challenge: Challenge,
    confidence: float,
) -> Check:
    drop, champion = _drop(rows, variant, evidence, challenge, confidence)
    allowed = evidence.metric.point(champion)
    if drop.value > allowed:
        passed, verdict = False, "lost more than a point"
    elif drop.high <= allowed:
        passed, verdict = True, "shown to lose less than a point"
    elif drop.low <= 0:
        passed, verdict = True, "a tie, as far as so many samples tell"
    else:
        passed, verdict = False, "surely worse, and not surely by less than a point"
    return _check(part, rows, passed, drop.value, allowed, verdict, benchmark, evidence)


def _better(
    rows: np.ndarray,
    variant: VariantBenchmark,
    benchmark: Benchmark,
    evidence: Evidence,
    challenge: Challenge,
    confidence: float,
) -> Check:
    drop, _ = _drop(rows, variant, evidence, challenge, confidence)
    passed = drop.high < 0
    verdict = "really better" if passed else "not really better"
    return _check("recent", rows, passed, drop.value, 0.0, verdict, benchmark, evidence)


def _drop(
    rows: np.ndarray, variant: VariantBenchmark, evidence: Evidence, challenge: Challenge, confidence: float
) -> tuple[Interval, float]:
    """How much worse the challenger is than the champion on some samples, and the champion's metric there."""
    before, after = (evidence.outputs[identity][rows] for identity in (challenge.champion, variant.id))
    truth = evidence.truth[rows]
    drop = metric_drop(
        evidence.metric, truth, before, after, classification=evidence.classification, confidence=confidence
    )
    return drop, evidence.metric.score(before, truth)


def _check(
    name: str,
    rows: np.ndarray,
    passed: bool,
    value: float,
    limit: float,
    verdict: str,
    benchmark: Benchmark,
    evidence: Evidence,
) -> Check:
    gained = (-value if evidence.metric.higher_is_better else value) + 0.0  # no negative zero
    change = formatting.metric_change(benchmark.metric_name, gained)
    note = f"On {int(rows.sum()):,} {name} samples {change} against the champion: {verdict}."
    return Check(name=name, passed=passed, value=value, limit=limit, note=note)


def _speed(
    variant: VariantBenchmark, benchmark: Benchmark, challenge: Challenge, goal: GoalSettings, confidence: float
) -> Check:
    ratio = speedup(benchmark.variant(challenge.champion), variant, goal.batch_size, confidence)
    asked = challenge.aim == "latency"
    passed = ratio.low > 1 if asked else ratio.high >= 1 / MAY_BE_SLOWER
    verdict = (
        "really faster" if passed and asked else "not really faster" if asked else "kept" if passed else "too slow"
    )
    note = f"{formatting.comparison('latency_p50', ratio)} than the champion: {verdict}."
    return Check(name="speed", passed=passed, value=ratio.value, limit=1.0 if asked else 1 / MAY_BE_SLOWER, note=note)
