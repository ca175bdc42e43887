"""Rates, failures and concurrency from Triton's counters."""

from __future__ import annotations

import pytest

from leanloop.monitoring.traffic import SPAN_SECONDS, Traffic
from leanloop.monitoring.triton_metrics import VersionMetrics


def counted(requests: int, *, failures: int = 0, latency_ms: float = 10.0, version: int = 2) -> VersionMetrics:
    return VersionMetrics(
        model="net",
        version=version,
        successes=requests,
        failures=failures,
        model_failures=failures,
        samples=2 * requests,
        executions=requests,
        latency_ms=latency_ms,
        queue_ms=0.0,
        compute_ms=latency_ms,
    )


def traffic(*looks: tuple[float, VersionMetrics]) -> Traffic:
    found = Traffic()
    for at, row in looks:
        found.add([row], "net", 2, at)
    return found


def test_nothing_is_known_of_one_look() -> None:
    found = traffic((0.0, counted(5)))
    assert (found.rate, found.failing, found.concurrency) == (0.0, False, 1)


def test_rate_counts_samples_of_this_version_alone() -> None:
    found = traffic((0.0, counted(100)), (5.0, counted(9_999, version=1)), (10.0, counted(200)))
    assert found.rate == 20.0


def test_concurrency_is_time_in_the_server_per_time() -> None:
    found = traffic((0.0, counted(100, latency_ms=10.0)), (10.0, counted(1_100, latency_ms=40.0)))
    assert found.concurrency == round((1_100 * 0.04 - 100 * 0.01) / 10)


@pytest.mark.parametrize(("failures", "requests", "failing"), [(3, 27, True), (2, 28, False), (10, 5, False)])
def test_a_tenth_of_enough_requests_must_fail(failures: int, requests: int, failing: bool) -> None:
    assert traffic((0.0, counted(0)), (10.0, counted(requests, failures=failures))).failing is failing


def test_counters_of_a_new_server_begin_anew() -> None:
    found = traffic((0.0, counted(1_000)), (10.0, counted(5)), (20.0, counted(15)))
    assert found.rate == 2.0


def test_old_looks_are_forgotten() -> None:
    late = SPAN_SECONDS + 10
    found = traffic((0.0, counted(0)), (late - 10, counted(1_000)), (late, counted(1_010)))
    assert found.rate == 2.0
