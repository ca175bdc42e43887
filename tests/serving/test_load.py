from __future__ import annotations

import numpy as np
import pytest

from leanloop.core.errors import MeasurementError
from leanloop.monitoring import read_metrics
from leanloop.serving import compare_served, measure_served
from tests.serving.conftest import QUERIES, linear_spec


def test_measurements_count_what_was_sent(triton, models, new_name):
    spec = linear_spec(new_name())
    triton.serve(spec, models.linear(1.0), models.linear(2.0))
    measured = measure_served(triton.server.grpc_url, spec.name, 1, {"x": QUERIES}, concurrency=3, seconds=0.3)
    assert (measured.version, measured.batch_size, measured.concurrency) == (1, 5, 3)
    assert 0 < measured.p50_ms <= measured.p99_ms
    assert measured.throughput == pytest.approx(measured.requests * 5 / 0.3, rel=0.5)

    both = compare_served(
        triton.server.grpc_url, spec.name, (1, 2), {"x": QUERIES}, concurrency=1, blocks=2, block_seconds=0.1
    )
    assert list(both) == [1, 2]
    counted = {one.version: one for one in read_metrics(triton.server.metrics_url) if one.model == spec.name}
    assert counted[1].successes > measured.requests + both[1].requests
    assert counted[2].successes > both[2].requests
    assert counted[1].latency_ms >= counted[1].queue_ms + counted[1].compute_ms > 0


def test_a_failing_request_fails_the_measurement(triton, models):
    spec, package = models.mixed()
    spec = spec.model_copy(update={"name": "mixed_load"})
    triton.serve(spec, package)
    inputs = dict(package.golden.inputs) | {"token": np.full((3, 3), 99)}
    with pytest.raises(MeasurementError, match="out of data bounds"):
        measure_served(triton.server.grpc_url, spec.name, 1, inputs, concurrency=2, seconds=0.1)
