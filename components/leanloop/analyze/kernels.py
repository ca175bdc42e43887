"""Time per node of the original in ONNX Runtime, from its own profiler."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import onnx

from leanloop.analyze.graph import Graph
from leanloop.bundle import Arrays
from leanloop.core.measure_lock import measuring
from leanloop.runtime.profile.onnxruntime import node_times as kernel_times

RUNTIME_WORK = "(layout changes)"
"""Work of nodes that ONNX Runtime adds, such as reordering between memory layouts."""


def node_times(graph: Graph, file: Path, inputs: Arrays, *, threads: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of each node for one batch, with all of ONNX Runtime's optimisations.

    A fused kernel counts for the operator that it is named by: ``Conv`` for a convolution with its activation.

    Returns:
        By node name; nodes that were fused into another are absent. `RUNTIME_WORK` holds what was added.
    """
    times: dict[str, float] = defaultdict(float)
    with measuring():
        kernels = kernel_times(file, inputs, threads=threads, seconds=seconds)
    for kernel in kernels:
        node = _node_of(graph, kernel.name, kernel.operator)
        times[node.name if node else RUNTIME_WORK] += kernel.milliseconds
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
