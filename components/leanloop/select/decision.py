"""The decision on validation: the best variant that passes the gate, or why the original stays."""

from __future__ import annotations

from collections.abc import Sequence

from leanloop.core.contracts import Benchmark, Challenge, Check, VariantBenchmark, VariantVerdict, Verdict
from leanloop.core.settings import GoalSettings
from leanloop.select import formatting
from leanloop.select.challenge import CHALLENGE_CHECKS, challenge_checks, judged_by_the_goal
from leanloop.select.gate import (
    ACCURACY_CHECKS,
    CONSTRAINT_CHECKS,
    Evidence,
    accuracy_checks,
    constraint_checks,
    meets,
    objective_check,
)
from leanloop.select.objective import improvement, objective_value, speedup
from leanloop.select.pareto import pareto_front

KEEP_ORIGINAL = "nothing better, keep the original: "
"""How the reason of a verdict without a winner begins."""

KEEP_CHAMPION = "nothing better, keep the champion: "
"""The same in a re-optimisation."""


def decide(
    benchmark: Benchmark,
    evidence: Evidence,
    goal: GoalSettings,
    confidence: float,
    challenge: Challenge | None = None,
) -> Verdict:
    """The verdict on validation alone; ``test`` is not read, and its fields are empty.

    With a challenge the winner must also be better than the champion, which itself cannot win. Where nobody holds the
    accuracy goal on golden and recent samples together, the one that is most right wins, not the fastest.
    """
    candidates, judged = _candidates(benchmark, challenge), judged_by_the_goal(evidence, challenge)
    checks = {variant.id: _checks(variant, benchmark, judged, goal, confidence) for variant in benchmark.variants}
    if challenge is not None:
        for one in candidates:
            against = challenge_checks(one, benchmark, evidence, challenge, goal, confidence)
            checks[one.id] = (*checks[one.id], *against)
    front = pareto_front([_costs(variant, benchmark, goal) for variant in benchmark.variants])
    feasible = [variant for variant in benchmark.variants if all(check.passed for check in checks[variant.id])]
    able = [variant for variant in feasible if variant in candidates]
    everywhere = {one.id: accuracy_checks(one, benchmark, evidence, goal, confidence) for one in able}
    whole = [one for one in able if meets(everywhere[one.id], ACCURACY_CHECKS)]
    winner, tied = _best(whole or able, benchmark, goal, confidence, fastest=bool(whole))
    if winner is None:
        reason = (KEEP_CHAMPION if challenge else KEEP_ORIGINAL) + _why_not(benchmark, candidates, checks, goal)
    else:
        reason = _why(winner, tied, benchmark, checks[winner.id], goal)
        reason += "" if whole else _nearest_to_the_goal(everywhere[winner.id])
    return Verdict(
        bundle_digest=benchmark.bundle_digest,
        winner=None if winner is None else winner.id,
        reason=reason,
        objective=goal.minimise,
        batch_size=goal.batch_size,
        variants=tuple(
            VariantVerdict(
                id=variant.id,
                label=variant.label,
                objective=objective_value(variant, goal),
                on_pareto_front=on_front,
                feasible=variant in feasible,
                checks=checks[variant.id],
            )
            for variant, on_front in zip(benchmark.variants, front, strict=True)
        ),
        test_metric={},
        test_samples=0,
        speedup={}
        if winner is None
        else {
            baseline.id: speedup(baseline, winner, goal.batch_size, confidence)
            for baseline in benchmark.variants
            if baseline.baseline
        },
    )


def _candidates(benchmark: Benchmark, challenge: Challenge | None) -> list[VariantBenchmark]:
    """Who may win: neither a baseline, nor what serves already."""
    champion = None if challenge is None else challenge.champion
    return [variant for variant in benchmark.variants if not variant.baseline and variant.id != champion]


def _checks(
    variant: VariantBenchmark, benchmark: Benchmark, evidence: Evidence, goal: GoalSettings, confidence: float
) -> tuple[Check, ...]:
    checks = accuracy_checks(variant, benchmark, evidence, goal, confidence)
    if not variant.baseline:
        checks.append(objective_check(variant, benchmark, goal, confidence))
    return (*checks, *constraint_checks(variant, goal))


def _costs(variant: VariantBenchmark, benchmark: Benchmark, goal: GoalSettings) -> tuple[float, ...]:
    metric = -variant.metric if benchmark.higher_is_better else variant.metric
    return (objective_value(variant, goal), metric, variant.size_bytes, variant.peak_memory_bytes)


def _best(
    feasible: Sequence[VariantBenchmark], benchmark: Benchmark, goal: GoalSettings, confidence: float, *, fastest: bool
) -> tuple[VariantBenchmark | None, list[VariantBenchmark]]:
    """The best on the objective, and those that cannot be told from the leader on it, the best itself left out.

    Or, when it is not the ``fastest`` that is wanted, the one with the best metric, and nobody beside it.
    """
    if not feasible:
        return None, []
    leader = min(feasible, key=lambda variant: objective_value(variant, goal))
    tied = [other for other in feasible if not fastest or improvement(other, leader, goal, confidence).low <= 1]
    sign = -1 if benchmark.higher_is_better else 1
    best, *others = sorted(
        tied,
        key=lambda variant: (sign * variant.metric, variant.size_bytes, objective_value(variant, goal), variant.id),
    )
    return best, others if fastest else []


def _nearest_to_the_goal(checks: Sequence[Check]) -> str:
    """What is said of a winner that does not hold the accuracy goal on golden and recent samples together."""
    missed = " ".join(check.note for check in checks if not check.passed)
    return f" On golden and recent samples together no candidate holds the goal; this one is the nearest. {missed}"


def _why(
    winner: VariantBenchmark,
    tied: Sequence[VariantBenchmark],
    benchmark: Benchmark,
    checks: Sequence[Check],
    goal: GoalSettings,
) -> str:
    notes = {check.name: check.note for check in checks}
    bytes_share = winner.size_bytes / benchmark.original_size_bytes
    text = (
        f"{formatting.variant_name(winner)}: {notes['objective']} {notes['metric']} "
        f"{formatting.percent(bytes_share)} of the original's bytes."
    )
    text += "".join(f" {notes[name]}" for name in CHALLENGE_CHECKS if name in notes)
    if tied:
        names = ", ".join(formatting.variant_name(other) for other in tied)
        text += f" Tied on {formatting.OBJECTIVE_NAMES[goal.minimise]} with {names}; the metric decided, then the size."
    return text


def _why_not(
    benchmark: Benchmark,
    candidates: Sequence[VariantBenchmark],
    checks: dict[str, tuple[Check, ...]],
    goal: GoalSettings,
) -> str:
    if not candidates:
        return "no candidate reached the benchmark."
    accurate = [variant for variant in benchmark.variants if meets(checks[variant.id], ACCURACY_CHECKS)]
    impossible = _impossible_constraints(accurate, checks, goal)
    if impossible:
        return " ".join(impossible)
    right = [variant for variant in accurate if variant in candidates]
    if not right:
        sign = 1 if benchmark.higher_is_better else -1
        nearest = max(candidates, key=lambda variant: sign * variant.metric)
        failed = next(check for check in checks[nearest.id] if check.name in ACCURACY_CHECKS and not check.passed)
        return f"no candidate keeps the accuracy. The nearest is {formatting.variant_name(nearest)}. {failed.note}"
    fitting = [variant for variant in right if meets(checks[variant.id], CONSTRAINT_CHECKS)]
    nearest = min(fitting or right, key=lambda variant: objective_value(variant, goal))
    notes = " ".join(check.note for check in checks[nearest.id] if not check.passed)
    return f"the best candidate that keeps the accuracy is {formatting.variant_name(nearest)}. {notes}"


def _impossible_constraints(
    accurate: Sequence[VariantBenchmark], checks: dict[str, tuple[Check, ...]], goal: GoalSettings
) -> list[str]:
    """What to say of each constraint that no accurate variant meets: the nearest to it."""
    told = []
    superlatives = {"latency": "fastest", "size": "smallest", "memory": "leanest"}
    for name, superlative in superlatives.items():
        found = [(check, variant) for variant in accurate for check in checks[variant.id] if check.name == name]
        if found and not any(check.passed for check, _ in found):
            nearest, variant = min(found, key=lambda pair: pair[0].value)
            told.append(
                f"the {superlative} that keeps the accuracy is {formatting.variant_name(variant)}. {nearest.note}"
            )
    return told
