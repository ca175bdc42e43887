from __future__ import annotations

import socket

import pytest

from leanloop.core.errors import ServingError
from leanloop.monitoring import parse_metrics, read_metrics

TEXT = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m",version="1"} 4
nv_inference_request_success{model="m",version="2"} 0
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 2
nv_inference_request_failure{model="m",reason="REJECTED",version="1"} 1
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
nv_inference_count{model="m",version="1"} 128
# HELP nv_inference_exec_count Number of model executions performed (does not include cached requests)
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="m",version="1"} 3
# HELP nv_inference_request_duration_us Cumulative inference request duration in microseconds
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="m",version="1"} 8000
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="m",version="1"} 2000
# HELP nv_inference_compute_infer_duration_us Cumulative compute inference duration in microseconds
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="m",version="1"} 4000
# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.5
"""


def test_counts_and_means_per_version():
    first, second = parse_metrics(TEXT)
    assert (first.model, first.version, first.successes, first.failures) == ("m", 1, 4, 3)
    assert (first.samples, first.executions) == (128, 3)
    assert (first.latency_ms, first.queue_ms, first.compute_ms) == (2.0, 0.5, 1.0)
    assert (second.version, second.successes, second.latency_ms) == (2, 0, 0.0)


def test_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ServingError, match="metrics cannot be read"):
            read_metrics(f"127.0.0.1:{unused.getsockname()[1]}")
