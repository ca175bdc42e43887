"""ONNX Runtime's profiler: an event per kernel and call.

Its CPU library does not tell which instructions a kernel chose, but an operator's name tells its precision.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from leanloop.bundle import Arrays
from leanloop.core.contracts import ModelFiles
from leanloop.runtime.profile.base import PROFILERS, Kernel, Role

FLOAT_COMPUTE = frozenset(
    {
        "Conv",
        "FusedConv",
        "ConvTranspose",
        "Gemm",
        "FusedGemm",
        "MatMul",
        "FusedMatMul",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "MultiHeadAttention",
    }
)
"""Operators that multiply with weights or states, in floating point."""
INT8_COMPUTE = frozenset(
    {
        "QLinearConv",
        "QLinearConvTranspose",
        "QLinearMatMul",
        "QGemm",
        "QAttention",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
    }
)
"""The same on integers."""
_CONVERSION = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReorderInput", "ReorderOutput", "Cast"}
)
_KERNEL_TIME = "_kernel_time"
_RUNS_AT_LEAST, _RUNS_AT_MOST = 5, 500


@dataclass(frozen=True)
class NodeTime:
    """A kernel as the profiler names it, its operator, and its milliseconds per call."""

    name: str
    operator: str
    milliseconds: float


@PROFILERS.register("onnxruntime")
def profile_onnxruntime(
    model: ModelFiles, folder: Path, inputs: Arrays, *, threads: int, seconds: float
) -> list[Kernel]:
    """Run with the profiler on, and take the medians."""
    return [
        Kernel(
            name=node.name,
            kind=node.operator,
            implementation=node.operator,
            precision=_precision(node.operator),
            role=_role(node.operator),
            milliseconds=node.milliseconds,
        )
        for node in node_times(folder / model.main, inputs, threads=threads, seconds=seconds, entries=model.hints)
    ]


def node_times(
    file: Path, inputs: Arrays, *, threads: int, seconds: float, entries: dict[str, str] | None = None
) -> list[NodeTime]:
    """Median milliseconds per call of each kernel, with all of ONNX Runtime's optimisations, in the order they ran.

    Args:
        file: The ``.onnx`` file.
        inputs: One batch.
        threads: CPU threads.
        seconds: How long to look, after a quarter of that to warm up.
        entries: Configuration entries of the session.
    """
    import onnxruntime

    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        for key, value in (entries or {}).items():
            options.add_session_config_entry(key, value)
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
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_TIME):
            name = event["name"].removesuffix(_KERNEL_TIME)
            durations[name].append(event["dur"] / 1e3)
            operators[name] = event["args"]["op_name"]
    return [
        # A node inside a loop runs several times per call.
        NodeTime(name, operators[name], float(np.median(values[-runs:])) * len(values) / (warm_runs + runs))
        for name, values in durations.items()
    ]


def _precision(operator: str) -> str:
    return "int8" if operator in INT8_COMPUTE else "fp32" if operator in FLOAT_COMPUTE else ""


def _role(operator: str) -> Role:
    if operator in FLOAT_COMPUTE or operator in INT8_COMPUTE:
        return "compute"
    return "conversion" if operator in _CONVERSION else "other"
