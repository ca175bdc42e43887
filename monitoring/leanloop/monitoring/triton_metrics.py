"""Triton's own counters, read as requests and mean times per model version."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from leanloop.core.errors import ServingError

_COUNTERS = {
    "nv_inference_request_success": "successes",
    "nv_inference_request_failure": "failures",
    "nv_inference_count": "samples",
    "nv_inference_exec_count": "executions",
    "nv_inference_request_duration_us": "request_us",
    "nv_inference_queue_duration_us": "queue_us",
    "nv_inference_compute_infer_duration_us": "compute_us",
}

_MODEL_FAILURES = "model_failures"
_MODEL_FAILED = "BACKEND"
"""Triton's reason for a failure in the model's own code."""


@dataclass(frozen=True)
class VersionMetrics:
    """What one model version did since it was loaded; times are means per successful request.

    Attributes:
        model: Its name.
        version: Its number.
        successes: Requests answered.
        failures: Requests refused or failed, for any reason.
        model_failures: Those of them that failed in the model itself: not cancelled, and not the asker's fault.
        samples: Samples computed.
        executions: Batches that Triton made of them.
        latency_ms: Server-side request time, queueing included.
        queue_ms: Part of it spent waiting.
        compute_ms: Part of it spent in the model.
    """

    model: str
    version: int
    successes: int
    failures: int
    model_failures: int
    samples: int
    executions: int
    latency_ms: float
    queue_ms: float
    compute_ms: float


def parse_metrics(text: str) -> tuple[VersionMetrics, ...]:
    """Metrics per model and version from Triton's Prometheus text."""
    totals: dict[tuple[str, int], dict[str, float]] = defaultdict(
        lambda: dict.fromkeys((*_COUNTERS.values(), _MODEL_FAILURES), 0.0)
    )
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            counter = _COUNTERS.get(sample.name.removesuffix("_total"))
            if counter is not None:
                total = totals[sample.labels["model"], int(sample.labels["version"])]
                total[counter] += sample.value
                if counter == "failures" and sample.labels.get("reason") == _MODEL_FAILED:
                    total[_MODEL_FAILURES] += sample.value
    return tuple(
        VersionMetrics(
            model=model,
            version=version,
            successes=int(total["successes"]),
            failures=int(total["failures"]),
            model_failures=int(total[_MODEL_FAILURES]),
            samples=int(total["samples"]),
            executions=int(total["executions"]),
            latency_ms=_mean_ms(total["request_us"], total["successes"]),
            queue_ms=_mean_ms(total["queue_us"], total["successes"]),
            compute_ms=_mean_ms(total["compute_us"], total["successes"]),
        )
        for (model, version), total in sorted(totals.items())
    )


def _mean_ms(microseconds: float, requests: float) -> float:
    return microseconds / requests / 1e3 if requests else 0.0


def read_metrics(metrics_url: str) -> tuple[VersionMetrics, ...]:
    """Metrics of the server at ``host:port``.

    Raises:
        ServingError: It does not answer.
    """
    url = f"http://{metrics_url}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return parse_metrics(response.read().decode())
    except urllib.error.URLError as error:
        raise ServingError(
            "Triton's metrics cannot be read.",
            where=url,
            value=error.reason,
            fix="Start it with `leanloop serve up`, or correct serving.metrics_url.",
        ) from error
