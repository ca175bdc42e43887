"""OpenVINO's performance counters: they name the kernel with its instruction set and precision."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from leanloop.bundle import Arrays
from leanloop.core.contracts import ModelFiles
from leanloop.runtime.openvino import PRECISION_HINT
from leanloop.runtime.profile.base import PROFILERS, Kernel, Role

_COMPUTE = frozenset(
    {
        "Convolution",
        "Deconvolution",
        "FullyConnected",
        "MatMul",
        "RNNSeq",
        "RNNCell",
        "MHA",
        "ScaledDotProductAttention",
    }
)
_CONVERSION = frozenset({"Reorder", "FakeQuantize", "Convert", "Quantize"})
_PRECISIONS = {"i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_NOT_RUN = frozenset({"Input", "Output", "Constant"})
_RUNS_AT_LEAST = 5


@PROFILERS.register("openvino")
def profile_openvino(model: ModelFiles, folder: Path, inputs: Arrays, *, threads: int, seconds: float) -> list[Kernel]:
    """Compile with counters, for this batch size alone, and read them after each call."""
    import openvino

    core = openvino.Core()
    hints = {PRECISION_HINT: "f32"} if model.precision == "fp32" else {}
    graph = core.read_model(str(folder / model.main))
    batch = len(next(iter(inputs.values())))
    graph.reshape({port: [batch, *list(port.partial_shape)[1:]] for port in graph.inputs})
    properties = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERF_COUNT": True, **hints, **model.hints}
    request = core.compile_model(graph, "CPU", properties).create_infer_request()
    request.infer(inputs)
    times: dict[str, list[float]] = defaultdict(list)
    told: dict[str, tuple[str, str]] = {}
    deadline, runs = time.perf_counter() + seconds, 0
    while runs < _RUNS_AT_LEAST or time.perf_counter() < deadline:
        request.infer(inputs)
        runs += 1
        for node in request.profiling_info:
            if str(node.status).endswith("EXECUTED") and node.node_type not in _NOT_RUN:
                times[node.node_name].append(node.real_time.total_seconds() * 1e3)
                told[node.node_name] = (node.node_type, node.exec_type)
    return [
        Kernel(
            name=name,
            kind=kind,
            implementation=implementation,
            precision=_PRECISIONS.get(implementation.rpartition("_")[2].lower(), ""),
            role=_role(kind),
            # Counters are whole microseconds: the mean tells more of a short kernel than the median.
            milliseconds=float(np.mean(times[name])),
        )
        for name, (kind, implementation) in told.items()
    ]


def _role(kind: str) -> Role:
    return "compute" if kind in _COMPUTE else "conversion" if kind in _CONVERSION else "other"
