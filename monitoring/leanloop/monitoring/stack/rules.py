"""What Prometheus records, and when it raises an alert.

Error budgets are watched by burn rates over several windows (Google's SRE workbook, chapter 5): a burn rate of 1 spends
exactly the whole budget in the objective's 30 days. An alert needs a high rate in a long window, which says that it
matters, and in a short one, which says that it still goes on.

Latency is judged by slices of time, since Triton tells quantiles and no histogram: a slice is slow when the 99th
percentile of the last minute's requests, with queueing, is above the objective. What was not seen counts as not slow:
a release that has just been loaded must be slow for a while before anybody is called.

Nothing is told about a version that another has taken over from: it is loaded still, but answers health checks alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor
from typing import Any, Literal

import yaml

from leanloop.core.settings import MonitoringSettings, SloSettings
from leanloop.monitoring.stack.timing import LOOKS_PER_WINDOW, SHORTEST_WINDOW_SECONDS, duration, scrape_seconds

Severity = Literal["page", "ticket"]

WINDOW_SECONDS = {
    "5m": SHORTEST_WINDOW_SECONDS,
    "30m": 1800.0,
    "1h": 3600.0,
    "2h": 7200.0,
    "6h": 21600.0,
    "1d": 86400.0,
    "3d": 259200.0,
}
"""Windows by the name that their recorded series keep at every scale."""

ALERT_QUESTIONS = {
    "LatencyBudgetBurn": "latency",
    "ErrorBudgetBurn": "requests",
    "InputsDrifting": "inputs",
    "AccuracyFalling": "accuracy",
    "EstimateFalling": "estimate",
    "AgreementFalling": "agreement",
    "RequestsFailing": "requests",
    "PersonNeeded": "person",
    "MonitorStale": "monitor",
}
"""Every alert that there is, with the question that it answers."""


@dataclass(frozen=True)
class Burn:
    """Budget that burns ``factor`` times too fast, seen in both windows."""

    factor: float
    long: str
    short: str
    severity: Severity


BURNS = (
    Burn(14.4, "1h", "5m", "page"),
    Burn(6.0, "6h", "30m", "page"),
    Burn(3.0, "1d", "2h", "ticket"),
    Burn(1.0, "3d", "6h", "ticket"),
)

_JUDGED: dict[str, tuple[Severity, str]] = {
    "InputsDrifting": ("ticket", "the inputs are not what the release was made for"),
    "AccuracyFalling": ("page", "labels say that the accuracy has fallen"),
    "EstimateFalling": ("ticket", "the model is less sure than it was"),
    "AgreementFalling": ("page", "the release answers otherwise than its parent"),
    "RequestsFailing": ("page", "requests fail, or are answered wrongly"),
}

_SUMMARY_SECONDS = 60.0
"""Triton's quantiles are of so long a time (`--metrics-config summary_latencies`)."""

_MIN_REQUESTS = 20
"""In that time: the 99th percentile of fewer is the slowest one, and says nothing."""

_CHECKS_SHARE = 0.5
"""More of the requests than this are not the monitor's own checks, one per tick."""

_MIN_FAILURES = 10
"""In the long window: fewer say nothing about a rate."""

_STALE_TICKS = 12
_STALE_FOR_SECONDS = 30.0

_BY = "by (model, version)"


def render(settings: MonitoringSettings) -> str:
    """The rules as Prometheus' YAML."""
    document = rule_groups(settings, scrape_seconds(settings.slo))
    return yaml.safe_dump(document, sort_keys=False, width=1000)


def rule_groups(settings: MonitoringSettings, interval: float) -> dict[str, Any]:
    """The rules as plain data.

    Args:
        settings: Objectives and the monitor's tick.
        interval: Seconds between two evaluations.
    """
    rules = [
        *_latency_records(settings, interval),
        *_error_records(settings.slo, interval),
        *_burn_alerts("LatencyBudgetBurn", "latency", settings.slo, interval),
        *_burn_alerts("ErrorBudgetBurn", "error", settings.slo, interval),
        *_judged_alerts(settings.slo, interval),
        _person_alert(interval),
        _stale_alert(settings.tick_seconds),
    ]
    return {"groups": [{"name": "leanloop", "interval": duration(interval), "rules": rules}]}


def _seconds(window: str, slo: SloSettings, interval: float) -> float:
    return max(WINDOW_SECONDS[window] * slo.window_scale, LOOKS_PER_WINDOW * interval)


def _latency_records(settings: MonitoringSettings, interval: float) -> Iterator[dict[str, Any]]:
    slo = settings.slo
    enough = max(_MIN_REQUESTS, _SUMMARY_SECONDS / settings.tick_seconds / _CHECKS_SHARE)
    minute = duration(max(_SUMMARY_SECONDS, LOOKS_PER_WINDOW * interval))
    quantile = 'nv_inference_request_summary_us{quantile="0.99"}'
    yield {
        "record": "leanloop:latency_known",
        "expr": f"sum {_BY} (increase(nv_inference_request_success[{minute}])) >= bool {enough:g}",
    }
    yield {
        "record": "leanloop:latency_slow",
        "expr": f"(max {_BY} ({quantile}) > bool {slo.latency_p99_ms * 1e3:g}) * leanloop:latency_known",
    }
    for window in WINDOW_SECONDS:
        seconds = _seconds(window, slo, interval)
        slices = floor(seconds / interval) + 1  # both ends are inside
        yield {
            "record": f"leanloop:latency_burn_rate:{window}",
            "expr": f"sum_over_time(leanloop:latency_slow[{duration(seconds)}]) / {slices} "
            f"/ {1 - slo.latency_target:.6g}",
        }


def _error_records(slo: SloSettings, interval: float) -> Iterator[dict[str, Any]]:
    for window in WINDOW_SECONDS:
        span = duration(_seconds(window, slo, interval))
        failed = f"leanloop:failed_requests:{window}"
        yield {
            "record": failed,
            # Who cancels a request does not want its answer.
            "expr": f'sum {_BY} (increase(nv_inference_request_failure{{reason!="CANCELED"}}[{span}]))',
        }
        yield {
            "record": f"leanloop:error_burn_rate:{window}",
            "expr": f"{failed} / ({failed} + sum {_BY} (increase(nv_inference_request_success[{span}]))) "
            f"/ {1 - slo.availability_target:.6g}",
        }


def _burn_alerts(
    name: str, kind: Literal["latency", "error"], slo: SloSettings, interval: float
) -> Iterator[dict[str, Any]]:
    for severity, recently in (("page", "5m"), ("ticket", "30m")):
        pairs = " or ".join(_burning(kind, burn) for burn in BURNS if burn.severity == severity)
        still = "leanloop:latency_known == 1" if kind == "latency" else f"leanloop:failed_requests:{recently} > 0"
        yield _alert(
            name,
            f"({pairs}) and {still}",
            severity,
            f"{{{{ $labels.model }}}} version {{{{ $labels.version }}}}: the {kind} budget burns "
            "{{ $value | humanize }} times as fast as it lasts",
            keep=_seconds("5m", slo, interval),
        )


def _burning(kind: Literal["latency", "error"], burn: Burn) -> str:
    rate = f"leanloop:{kind}_burn_rate"
    enough = f" and leanloop:failed_requests:{burn.long} >= {_MIN_FAILURES}" if kind == "error" else ""
    return f"({rate}:{burn.long} > {burn.factor:g} and {rate}:{burn.short} > {burn.factor:g}{enough})"


def _judged_alerts(slo: SloSettings, interval: float) -> Iterator[dict[str, Any]]:
    for name, (severity, meaning) in _JUDGED.items():
        yield _alert(
            name,
            f'max by (model, version, question) (leanloop_question_state{{question="{ALERT_QUESTIONS[name]}"}}) == 1',
            severity,
            f"{{{{ $labels.model }}}} version {{{{ $labels.version }}}}: {meaning}",
            wait=2 * interval,
            keep=_seconds("5m", slo, interval),
        )


def _person_alert(interval: float) -> dict[str, Any]:
    return _alert(
        "PersonNeeded",
        "max by (model) (leanloop_page) == 1",
        "page",
        "{{ $labels.model }}: the loop does not know what to do; `leanloop status` says why",
        wait=2 * interval,
    )


def _stale_alert(tick_seconds: float) -> dict[str, Any]:
    tick = "leanloop_last_tick_timestamp_seconds"
    return _alert(
        "MonitorStale",
        f"time() - max by (model) ({tick}) > {_STALE_TICKS * tick_seconds:g} or absent({tick})",
        "page",
        "the monitor does not look at what is served",
        wait=_STALE_FOR_SECONDS,
    )


def _alert(
    name: str, expression: str, severity: str, summary: str, *, wait: float = 0.0, keep: float = 0.0
) -> dict[str, Any]:
    """One alerting rule.

    Args:
        name: A key of `ALERT_QUESTIONS`.
        expression: In PromQL; its labels go to the alert.
        severity: ``page`` or ``ticket``.
        summary: A template for people.
        wait: Seconds that it must hold before it fires.
        keep: Seconds that it goes on firing when it holds no more, so that it does not flap.
    """
    rule: dict[str, Any] = {"alert": name, "expr": expression}
    if wait:
        rule["for"] = duration(wait)
    if keep:
        rule["keep_firing_for"] = duration(keep)
    rule["labels"] = {"question": ALERT_QUESTIONS[name], "severity": severity}
    rule["annotations"] = {"summary": summary}
    return rule
