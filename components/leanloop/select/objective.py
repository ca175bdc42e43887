"""What is minimised, and how sure it is that one variant beats another on it."""

from __future__ import annotations

from leanloop.benchmark import ratio_interval
from leanloop.core.contracts import Interval, VariantBenchmark
from leanloop.core.settings import GoalSettings


def objective_value(variant: VariantBenchmark, goal: GoalSettings) -> float:
    """The goal's objective; lower is better.

    Returns:
        Milliseconds for the latencies, bytes for ``size``, and for ``cost`` the currency of ``price_per_core_hour`` per
        million inferences: what the cores of one instance cost while it serves them at the goal's batch size.
    """
    match goal.minimise:
        case "latency_p50":
            return variant.at(goal.batch_size).p50_ms.value
        case "latency_p99":
            return variant.at(goal.batch_size).p99_ms.value
        case "size":
            return float(variant.size_bytes)
        case "cost":
            hours_per_million = 1e6 / variant.at(goal.batch_size).throughput.value / 3600
            return hours_per_million * goal.price_per_core_hour * variant.threads


def improvement(
    reference: VariantBenchmark, variant: VariantBenchmark, goal: GoalSettings, confidence: float
) -> Interval:
    """How many times better ``variant`` is than ``reference`` on the objective; above 1 is better.

    The p50 latency is compared block by block, as it was measured, so that a drifting machine hurts both alike. Tail
    latency and throughput have no value per block: the ends of their own intervals are set against each other, which is
    wider than a paired interval and so never claims too much. Sizes are exact.
    """
    match goal.minimise:
        case "latency_p50":
            return speedup(reference, variant, goal.batch_size, confidence)
        case "latency_p99":
            first, second = reference.at(goal.batch_size).p99_ms, variant.at(goal.batch_size).p99_ms
            return _opposed(first, second)
        case "size":
            ratio = reference.size_bytes / variant.size_bytes
            return Interval(value=ratio, low=ratio, high=ratio)
        case "cost":
            first, second = reference.at(goal.batch_size).throughput, variant.at(goal.batch_size).throughput
            cores = reference.threads / variant.threads
            ratio_of_rates = _opposed(second, first)
            return Interval(
                value=ratio_of_rates.value * cores, low=ratio_of_rates.low * cores, high=ratio_of_rates.high * cores
            )


def speedup(reference: VariantBenchmark, variant: VariantBenchmark, batch_size: int, confidence: float) -> Interval:
    """How many times faster (p50 latency) a variant is than a reference, paired over their blocks."""
    return ratio_interval(
        reference.at(batch_size).block_medians_ms, variant.at(batch_size).block_medians_ms, confidence
    )


def _opposed(first: Interval, second: Interval) -> Interval:
    return Interval(value=first.value / second.value, low=first.low / second.high, high=first.high / second.low)
