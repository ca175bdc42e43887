"""Time per node in ONNX Runtime, from its own profiler."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from leanloop.analyze.graph import Graph
from leanloop.bundle import Arrays
from leanloop.core.measure_lock import measuring

RUNTIME_WORK = "(layout changes)"
"""Work of nodes that ONNX Runtime adds, such as reordering between memory layouts."""

_RUNS_AT_LEAST, _RUNS_AT_MOST = 5, 500
_KERNEL_TIME = "_kernel_time"


def node_times(graph: Graph, file: Path, inputs: Arrays, *, threads: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of each node for one batch, with all of ONNX Runtime's optimisations.

    A fused kernel counts for the operator that it is named by: ``Conv`` for a convolution with its activation.

    Returns:
        By node name; nodes that were fused into another are absent. `RUNTIME_WORK` holds what was added.
    """
    import onnxruntime

    with TemporaryDirectory() as folder, measuring():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        warm_until = time.perf_counter() + seconds / 4
        deadline = warm_until + seconds
        warm_runs = runs = 0
        while runs < _RUNS_AT_LEAST or (time.perf_counter() < deadline and runs < _RUNS_AT_MOST):
            session.run(None, inputs)
            if time.perf_counter() < warm_until:
                warm_runs += 1
            else:
                runs += 1
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = defaultdict(list)
    kernels: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_TIME):
            name = event["name"].removesuffix(_KERNEL_TIME)
            durations[name].append(event["dur"] / 1e3)
            kernels[name] = event["args"]["op_name"]
    times: dict[str, float] = defaultdict(float)
    for name, values in durations.items():
        # A node inside a loop runs several times per run.
        per_run = len(values) / (warm_runs + runs)
        node = _node_of(graph, name, kernels[name])
        times[node.name if node else RUNTIME_WORK] += float(np.median(values[-runs:])) * per_run
    return dict(times)


def _node_of(graph: Graph, name: str, kernel: str) -> onnx.NodeProto | None:
    # The optimiser names a fused or laid-out kernel after the old node or after the last tensor that it makes.
    plain = name.removesuffix("_nchwc").removeprefix("fused ")
    node = graph.nodes.get(plain) or graph.producers.get(plain)
    if node is None:
        return None
    upstream: onnx.NodeProto | None = node
    while upstream is not None and upstream.op_type not in kernel:
        upstream = graph.producers.get(upstream.input[0]) if upstream.input else None
    return upstream or node
