"""Measuring variants beside each other: latency, memory, size, and how right they are."""

from __future__ import annotations

from leanloop.benchmark.call_plans import with_plans
from leanloop.benchmark.latency import batch_of, compare_latency, quick_latency, quick_ratio
from leanloop.benchmark.memory import peak_memory
from leanloop.benchmark.statistics import (
    NonInferiority,
    bootstrap_interval,
    mcnemar,
    metric_interval,
    noninferiority,
    ratio_interval,
)
from leanloop.benchmark.variants import benchmark_variants

__all__ = [
    "NonInferiority",
    "batch_of",
    "benchmark_variants",
    "bootstrap_interval",
    "compare_latency",
    "mcnemar",
    "metric_interval",
    "noninferiority",
    "peak_memory",
    "quick_latency",
    "quick_ratio",
    "ratio_interval",
    "with_plans",
]
