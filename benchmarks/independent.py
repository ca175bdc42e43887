"""A second measurement that shares no code with the product: a plain timeit loop, and OpenVINO's own benchmark_app."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

BATCHES = (1, 32)
ROUNDS = 5

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
number = max(3, int(0.1 / timeit.timeit(call, number=3) * 3))
print(statistics.median(timeit.repeat(call, number=number, repeat=9)) / number * 1e3)
"""


def measure(variants: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Milliseconds per call by the loop and, for IR, by benchmark_app; and how far they are from the product's.

    The machine drifts, so all of them measure in turns, and medians over the rounds are compared.
    """
    found: dict[str, dict[str, float]] = {}
    apart = {}
    for name in ("original-pytorch-fp32", "winner-batch-1", "winner-batch-32"):
        for batch in BATCHES:
            others = {"timeit": loop}
            if variants["models"][name]["runtime"] == "openvino":
                others["benchmark_app"] = benchmark_app
            rounds: dict[str, list[float]] = {tool: [] for tool in ("product", *others)}
            for _ in range(ROUNDS):
                for tool, measured_by in {"product": product, **others}.items():
                    rounds[tool].append(measured_by(variants, folder, name, batch))
            key = f"{name}, batch {batch}"
            found[key] = {f"{tool}_ms": statistics.median(times) for tool, times in rounds.items()}
            for tool in others:
                apart[f"{key}, {tool}"] = percent(found[key]["product_ms"], found[key][f"{tool}_ms"])
    return {"milliseconds": found, "difference_percent": apart}


def percent(ours: float, theirs: float) -> float:
    return 100 * abs(ours / theirs - 1)


def product(variants: dict[str, Any], folder: Path, name: str, batch: int) -> float:
    """The product's own figure, now, in a process of its own."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from leanloop.benchmark import batch_of, quick_latency\n"
        "from leanloop.bundle import Bundle\n"
        "from leanloop.core.contracts import ModelFiles\n"
        "from leanloop.runtime import open_session\n"
        "bundle = Bundle(Path(sys.argv[1]))\n"
        "model = ModelFiles.model_validate_json(sys.argv[2])\n"
        "session = open_session(model, Path(sys.argv[3]), threads=1, bundle=bundle)\n"
        "print(quick_latency(session, batch_of(bundle.samples, int(sys.argv[4])), seconds=1.0))\n"
    )
    model = json.dumps(variants["models"][name])
    return last_number(
        [sys.executable, "-c", code, variants["bundle"], model, str(folder / "artifacts" / name), str(batch)]
    )


def loop(variants: dict[str, Any], folder: Path, name: str, batch: int) -> float:
    model = variants["models"][name]
    samples = str(Path(variants["bundle"]) / "samples.npz")
    if model["runtime"] == "pytorch":
        path = str(Path(variants["bundle"]) / model["main"])
        formats = ("contiguous", "channels_last")
        return min(
            last_number([sys.executable, "-c", LOOP, "pytorch", path, str(batch), one, samples]) for one in formats
        )
    path = str(folder / "artifacts" / name / model["main"])
    return last_number([sys.executable, "-c", LOOP, model["runtime"], path, str(batch), hint_of(model), samples])


def hint_of(model: dict[str, Any]) -> str:
    return str(model["hints"].get("INFERENCE_PRECISION_HINT", "f32" if model["precision"] == "fp32" else ""))


def benchmark_app(variants: dict[str, Any], folder: Path, name: str, batch: int) -> float:
    model = variants["models"][name]
    tool = Path(sys.executable).with_name("benchmark_app")
    command = [str(tool), "-m", str(folder / "artifacts" / name / model["main"]), "-d", "CPU", "-api", "sync"]
    command += ["-nthreads", "1", "-nstreams", "1", "-hint", "none", "-t", "3", "-shape", f"[{batch},1,28,28]"]
    if hint := hint_of(model):
        command += ["-infer_precision", hint]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"Median:\s+([\d.]+) (ms|us)", printed)
    if match is None:
        raise RuntimeError(f"benchmark_app told no median:\n{printed}")
    return float(match[1]) * {"ms": 1.0, "us": 1e-3}[match[2]]


def last_number(command: list[str]) -> float:
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
