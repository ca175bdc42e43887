"""A second measurement that shares no code with the product: a plain timeit loop, and OpenVINO's own benchmark_app.

The machine drifts, by half and within seconds where others use it, too. So whoever measures stays ready in a process of
its own, all take turns of a fraction of a second, and the median of the ratios of neighbouring turns is what counts.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

BATCHES = (1, 32)
ROUNDS = 15
APP_ROUNDS = 7

Measurer = Callable[[], float]
"""Takes a measurement now, in milliseconds per call."""

LOOP = """
import statistics, sys, timeit
from pathlib import Path
import numpy as np
runtime, path, batch, precision = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
x = np.resize(np.load(sys.argv[5])["image"], (batch, 1, 28, 28)).astype(np.float32)
if runtime == "onnxruntime":
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    call = lambda: session.run(None, {name: x})
elif runtime == "openvino":
    import openvino as ov
    model = ov.Core().read_model(path)
    model.reshape({model.inputs[0]: x.shape})
    properties = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    if precision:
        properties["INFERENCE_PRECISION_HINT"] = precision
    request = ov.compile_model(model, "CPU", properties).create_infer_request()
    request.set_input_tensor(ov.Tensor(x))
    call = request.infer
else:
    import safetensors.torch, torch
    sys.path.insert(0, str(Path(path).parent / "code"))
    from model import residual_cnn
    torch.set_num_threads(1)
    net = residual_cnn().eval()
    net.load_state_dict(safetensors.torch.load_file(path))
    if precision == "channels_last":
        net = net.to(memory_format=torch.channels_last)
    y = torch.from_numpy(x)
    def call():
        with torch.inference_mode():
            return net(y)
number = max(3, int(0.05 / timeit.timeit(call, number=3) * 3))
for _ in sys.stdin:
    print(statistics.median(timeit.repeat(call, number=number, repeat=9)) / number * 1e3, flush=True)
"""

PRODUCT = """
import sys
from pathlib import Path
from leanloop.benchmark import batch_of, quick_latency
from leanloop.bundle import Bundle
from leanloop.core.contracts import ModelFiles
from leanloop.runtime import open_session
bundle = Bundle(Path(sys.argv[1]))
session = open_session(ModelFiles.model_validate_json(sys.argv[2]), Path(sys.argv[3]), threads=1, bundle=bundle)
batch = batch_of(bundle.samples, int(sys.argv[4]))
for _ in sys.stdin:
    print(quick_latency(session, batch, seconds=0.4), flush=True)
"""


def measure(variants: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Milliseconds per call of every turn, and how far the tools are from the product, in per cent."""
    found: dict[str, dict[str, list[float]]] = {}
    apart = {}
    for name in ("original-pytorch-fp32", "winner-batch-1", "winner-batch-32"):
        for batch in BATCHES:
            with ExitStack() as stack:
                product = stack.enter_context(_product(variants, folder, name, batch))
                loops = [stack.enter_context(one) for one in _loops(variants, folder, name, batch)]
                found[f"{name}, batch {batch}, timeit"] = turns(
                    product, lambda loops=loops: min(loop() for loop in loops), ROUNDS
                )
                if variants["models"][name]["runtime"] == "openvino":
                    app = _benchmark_app(variants["models"][name], folder / "artifacts" / name, batch)
                    found[f"{name}, batch {batch}, benchmark_app"] = turns(product, app, APP_ROUNDS)
    for key, times in found.items():
        ours, theirs = times["product_ms"], times["tool_ms"]
        # A tool's turn lies between two of the product's.
        ratios = [other / (before + after) * 2 for before, other, after in zip(ours, theirs, ours[1:], strict=False)]
        apart[key] = 100 * abs(statistics.median(ratios) - 1)
    return {"milliseconds": found, "difference_percent": apart}


def turns(product: Measurer, tool: Measurer, rounds: int) -> dict[str, list[float]]:
    """The product, the tool, and so on; the product ends."""
    found: dict[str, list[float]] = {"product_ms": [product()], "tool_ms": []}
    for _ in range(rounds):
        found["tool_ms"].append(tool())
        found["product_ms"].append(product())
    return found


@contextmanager
def ready(code: str, *arguments: str) -> Iterator[Measurer]:
    """A process that has loaded its model, and measures whenever it is asked."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None, "it was asked for"
        assert process.stdout is not None, "it was asked for"
        stdin, stdout = process.stdin, process.stdout

        def ask() -> float:
            stdin.write("now\n")
            stdin.flush()
            return float(stdout.readline())

        try:
            ask()  # warms up
            yield ask
        finally:
            stdin.close()


def _product(variants: dict[str, Any], folder: Path, name: str, batch: int) -> AbstractContextManager[Measurer]:
    model = json.dumps(variants["models"][name])
    return ready(PRODUCT, variants["bundle"], model, str(folder / "artifacts" / name), str(batch))


def _loops(variants: dict[str, Any], folder: Path, name: str, batch: int) -> list[AbstractContextManager[Measurer]]:
    """The plain loop; eager PyTorch once in each memory format, since the product takes the faster one."""
    model = variants["models"][name]
    samples = str(Path(variants["bundle"]) / "samples.npz")
    if model["runtime"] == "pytorch":
        path = str(Path(variants["bundle"]) / model["main"])
        formats = ("contiguous", "channels_last")
        return [ready(LOOP, "pytorch", path, str(batch), one, samples) for one in formats]
    path = str(folder / "artifacts" / name / model["main"])
    return [ready(LOOP, model["runtime"], path, str(batch), hint_of(model), samples)]


def hint_of(model: dict[str, Any]) -> str:
    return str(model["hints"].get("INFERENCE_PRECISION_HINT", "f32" if model["precision"] == "fp32" else ""))


def _benchmark_app(model: dict[str, Any], folder: Path, batch: int) -> Measurer:
    tool = Path(sys.executable).with_name("benchmark_app")
    command = [str(tool), "-m", str(folder / model["main"]), "-d", "CPU", "-api", "sync"]
    command += ["-nthreads", "1", "-nstreams", "1", "-hint", "none", "-t", "1", "-shape", f"[{batch},1,28,28]"]
    if hint := hint_of(model):
        command += ["-infer_precision", hint]

    def run() -> float:
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        match = re.search(r"Median:\s+([\d.]+) (ms|us)", printed)
        if match is None:
            raise RuntimeError(f"benchmark_app told no median:\n{printed}")
        return float(match[1]) * {"ms": 1.0, "us": 1e-3}[match[2]]

    return run
