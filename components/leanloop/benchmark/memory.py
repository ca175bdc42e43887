"""Peak memory of variants, each in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from leanloop.benchmark.latency import batch_of
from leanloop.bundle import Arrays, Bundle
from leanloop.core.child import Child
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import MeasurementError
from leanloop.runtime import open_session

MEMORY_IMPORTS = ("torch", "onnxruntime", "openvino", "leanloop.benchmark.memory")
"""What the child that measures is slow to import."""

CALLS = 5
SAMPLE_SECONDS = 0.002
LIMIT_SECONDS = 600.0
LIMIT_BYTES = 16 << 30


def peak_memory(
    models: Mapping[str, ModelFiles], folder: Path, *, bundle: Bundle, threads: int, batch_size: int, child: Child
) -> dict[str, int]:
    """Resident memory in bytes that loading each model and running it adds to a fresh process.

    The peak of the private resident memory (USS, sampled every 2 ms) while the model is loaded and called five times,
    minus that just before: the interpreter, the runtime's library and the inputs were there already. What the runtime
    loads with its first model (OpenVINO's CPU plugin) counts, since a process that serves one model needs it.

    Args:
        models: By variant id; the files are in ``folder/<id>/``.
        folder: See above.
        bundle: Holds the samples, and the owner's code.
        threads: CPU threads.
        batch_size: Of each call.
        child: Forks once per model; best with `MEMORY_IMPORTS`.

    Raises:
        MeasurementError: A variant cannot be loaded and run.
    """
    with tempfile.TemporaryDirectory(prefix="leanloop-memory-") as scratch:
        found = child.call(
            "leanloop.benchmark.memory:measure",
            {
                "models": {name: model.model_dump(mode="json") for name, model in models.items()},
                "folder": str(folder.resolve()),
                "bundle": str(bundle.folder),
                "threads": threads,
                "batch_size": batch_size,
            },
            folder=Path(scratch),
            timeout_seconds=LIMIT_SECONDS,
            memory_bytes=LIMIT_BYTES,
        )
    return {name: int(value) for name, value in found.items()}


def measure(models: dict[str, Any], folder: str, bundle: str, threads: int, batch_size: int) -> dict[str, int]:
    """Body of `peak_memory`, with JSON arguments for the child process; forks once per model."""
    files = {name: ModelFiles.model_validate(model) for name, model in models.items()}
    opened = Bundle(Path(bundle))
    inputs = batch_of(opened.samples, batch_size)
    for runtime in {model.runtime for model in files.values()}:
        importlib.import_module("torch" if runtime == "pytorch" else runtime)
    return {
        name: _added_bytes(model, Path(folder) / name, bundle=opened, threads=threads, inputs=inputs)
        for name, model in files.items()
    }


def _added_bytes(model: ModelFiles, folder: Path, *, bundle: Bundle, threads: int, inputs: Arrays) -> int:
    # A fork has the libraries imported and no model loaded; their pages are shared with us and so not counted.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_load_and_run, args=(sender, model, folder, bundle, threads, inputs))
    child.start()
    sender.close()
    process, peak = psutil.Process(child.pid), 0
    while not receiver.poll(SAMPLE_SECONDS):
        peak = max(peak, process.memory_full_info().uss)
    try:
        before, after = receiver.recv()
    except EOFError as error:
        raise MeasurementError(
            "A variant cannot be loaded and run in a process of its own.", where=str(folder)
        ) from error
    finally:
        child.join()
    return int(max(peak, after) - before)


def _load_and_run(
    sender: Connection, model: ModelFiles, folder: Path, bundle: Bundle, threads: int, inputs: Arrays
) -> None:
    process = psutil.Process()
    before = process.memory_full_info().uss
    batch_size = len(next(iter(inputs.values())))
    session = open_session(model, folder, threads=threads, bundle=bundle, batch_sizes=(batch_size,))
    for _ in range(CALLS):
        session.run(inputs)
    sender.send((before, process.memory_full_info().uss))
