"""The model that Triton's Python backend runs; copied into each version's folder as ``model.py``.

It runs in Triton's own environment: standard library, numpy and the runtime only. What to load and how is in
``runtime.json`` beside it. Requests that Triton batched are run as one call. When the model's parameter ``capture``
says so, a sample of them is kept by ``capture_format.py``, in the background.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from capture_format import Capture, Record  # type: ignore[import-not-found]

Run = Callable[[Sequence[Any]], Sequence[Any]]
"""Computes the outputs of one batch from its inputs, both in the order of ``runtime.json``."""


class TritonPythonModel:
    """One instance of one version."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model with the threads and hints that were measured."""
        folder = Path(args["model_repository"]) / args["model_version"]
        runtime = json.loads((folder / "runtime.json").read_text(encoding="utf-8"))
        self.inputs = [tensor["name"] for tensor in runtime["inputs"]]
        self.outputs = [tensor["name"] for tensor in runtime["outputs"]]
        load = {"onnxruntime": _load_onnxruntime, "openvino": _load_openvino}[runtime["runtime"]]
        self.run = load(str(folder / runtime["main"]), self.inputs, self.outputs, runtime)
        self.model, self.version = args["model_name"], int(args["model_version"])
        config = json.loads(args["model_config"])
        asked = config["parameters"].get("capture")
        self.capture = _open_capture(json.loads(asked["string_value"])) if asked else None
        # Triton's own, before the first real request: one per sample of every warm-up batch.
        self.warmups = sum(int(warmup["batch_size"]) for warmup in config.get("model_warmup", ()))

    def finalize(self) -> None:
        """Write what is captured and not yet on the disk."""
        if self.capture is not None:
            self.capture.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests; one that fails gets an error and does not spoil the others."""
        try:
            return self.answer(requests)
        except Exception as error:  # noqa: BLE001 - one that escapes leaks the requests' shared memory
            if len(requests) > 1:
                return [self.execute([request])[0] for request in requests]
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}"))]

    def answer(self, requests: list[Any]) -> list[Any]:
        """Run the requests as one batch and give each its rows (views, not copies)."""
        parts = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.inputs
        ]
        started = time.perf_counter()
        if len(requests) == 1:
            answers = [self.run([arrays[0] for arrays in parts])]
        else:
            outputs = self.run([np.concatenate(arrays) for arrays in parts])
            ends = np.cumsum([len(array) for array in parts[0]])
            answers = [
                [output[start:end] for output in outputs] for start, end in zip([0, *ends[:-1]], ends, strict=True)
            ]
        if self.capture is not None:
            compute_ms = 1e3 * (time.perf_counter() - started)
            for place, request in enumerate(requests):
                # Every request waits for this line, with cold caches, so that it is all that most of them get.
                if crc32(request.request_id().encode()) < self.capture.below:
                    self.keep(self.capture, request, [part[place] for part in parts], answers[place], compute_ms)
        return [self.respond(arrays) for arrays in answers]

    def keep(
        self, capture: Any, request: Any, inputs: Sequence[Any], outputs: Sequence[Any], compute_ms: float
    ) -> None:
        """Offer a request to the capture when it is part of the sample; its memory is Triton's, so it is copied.

        Args:
            capture: Where to.
            request: One whose id is below the capture's bound, as an empty one always is.
            inputs: Its own.
            outputs: Its own.
            compute_ms: What the model took for the batch that it was part of.
        """
        identity = request.request_id()
        if not identity:
            if self.warmups:
                # Triton's own have no id, and all come before the first real request.
                self.warmups -= 1
                return
            identity = uuid.uuid4().hex
        if capture.wanted(identity):
            asked = {name: np.array(array) for name, array in zip(self.inputs, inputs, strict=True)}
            answered = {name: np.array(array) for name, array in zip(self.outputs, outputs, strict=True)}
            capture.offer(Record(identity, self.model, self.version, time.time(), compute_ms, asked, answered))

    def respond(self, arrays: Sequence[Any]) -> Any:
        """One response of named tensors."""
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        )


def _open_capture(asked: dict[str, Any]) -> Any:
    return Capture(Path(asked["folder"]), rate=asked["rate"], quota_bytes=asked["quota_bytes"])


def _load_onnxruntime(path: str, inputs: list[str], outputs: list[str], runtime: dict[str, Any]) -> Run:
    import onnxruntime

    def open_on(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in runtime["hints"].items():
            options.add_session_config_entry(key, value)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    any_size, plans = open_on(runtime["threads"]), runtime.get("plans", {})
    others = {plan["threads"]: open_on(plan["threads"]) for plan in plans.values()}
    exact = {int(batch_size): others[plan["threads"]] for batch_size, plan in plans.items()}

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        session = exact.get(len(arrays[0]), any_size)
        answers: Sequence[Any] = session.run(outputs, dict(zip(inputs, arrays, strict=True)))
        return answers

    return run


def _load_openvino(path: str, inputs: list[str], outputs: list[str], runtime: dict[str, Any]) -> Run:
    import openvino

    # Without the hint OpenVINO computes fp32 models in bf16 where the processor can.
    precision = {"INFERENCE_PRECISION_HINT": "f32"} if runtime["precision"] == "fp32" else {}
    usual = {"threads": runtime["threads"], "streams": 1}
    core = openvino.Core()
    model = core.read_model(path)

    def compile_for(batch_size: int | None, plan: dict[str, int]) -> list[Any]:
        graph = model.clone()
        if batch_size is not None:
            part = batch_size // plan["streams"]
            graph.reshape({port: [part, *list(port.partial_shape)[1:]] for port in graph.inputs})
        of_plan = {"INFERENCE_NUM_THREADS": plan["threads"], "NUM_STREAMS": plan["streams"]}
        compiled = core.compile_model(graph, "CPU", {**of_plan, **precision, **runtime["hints"]})
        return [compiled.create_infer_request() for _ in range(plan["streams"])]

    any_size, plans = compile_for(None, usual), runtime.get("plans", {})
    exact = {size: compile_for(size, plans.get(str(size), usual)) for size in runtime["batch_sizes"]}
    compiled = any_size[0].get_compiled_model()
    feeds = [compiled.input(name).index for name in inputs]
    fetches = [compiled.output(name).index for name in outputs]

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        requests = exact.get(len(arrays[0]), any_size)
        if len(requests) > 1:
            parts = zip(*(np.split(array, len(requests)) for array in arrays), strict=True)
            for request, part in zip(requests, parts, strict=True):
                request.start_async(dict(zip(feeds, part, strict=True)), share_inputs=True)
            for request in requests:
                request.wait()
            return [np.concatenate([one.get_output_tensor(fetch).data for one in requests]) for fetch in fetches]
        # The answers share the request's memory: Triton copies them out before the next call.
        answers = requests[0].infer(dict(zip(feeds, arrays, strict=True)), share_inputs=True, share_outputs=True)
        return [answers[fetch] for fetch in fetches]

    return run
