"""PyTorch to ONNX by the dynamo exporter: one small file whose batch axis is truly dynamic."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanloop.bundle import Arrays, Bundle, tensors
from leanloop.convert.onnxruntime import onnx_model_files
from leanloop.convert.parity import compare
from leanloop.core.child import Child, run_limited
from leanloop.core.errors import ConversionError
from leanloop.core.files import digest_json
from leanloop.core.hardware import tool_versions
from leanloop.core.names import code_version
from leanloop.core.store import Store
from leanloop.runtime import Session, open_session

if TYPE_CHECKING:
    import torch
    from onnxscript import ir
    from torch import nn

OPSET = 20
CHECKED_BATCHES = (1, 2, 7)
EXPORT_IMPORTS = ("torch.onnx", "onnxscript", "leanloop.convert.export")
"""What a child that exports is slow to import."""

EXPORT_SECONDS = 900.0
EXPORT_BYTES = 12 << 30

_EXAMPLE_BATCH = 3
_SINGLE_FILE_BYTES = 1_900_000_000
"""A protobuf message ends at 2 GiB; larger weights go into ``<name>.data`` beside the file."""


def export_onnx(bundle: Bundle, module: nn.Module, path: Path, *, check: bool = True) -> None:
    """Export a module that takes and gives what the bundle's model does.

    Batch norms are folded into convolutions by the exporter. Stack traces and other metadata are left out.

    Args:
        bundle: Names the inputs and outputs, and holds sample inputs.
        module: In eval mode; called with the inputs in order.
        path: The ``.onnx`` file to write.
        check: Run the file at batches 1, 2 and 7 and compare with the module. Leave it out only for a file whose
            answers nobody reads, such as one that is timed.

    Raises:
        ConversionError: The module cannot be exported with a dynamic batch axis, or the file answers otherwise.
    """
    program = _exported(bundle, module)
    _keep_names_apart(program.model)
    _strip(program.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        file = Path(scratch) / path.name
        program.save(file, external_data=_weight_bytes(module) > _SINGLE_FILE_BYTES)
        if check:
            _check(bundle, file, module)
        _move_files(Path(scratch), path.parent)


def fp32_onnx(bundle: Bundle, path: Path, store: Store | None = None, child: Child | None = None) -> None:
    """Write the original as an fp32 ONNX file, whatever its kind; in a limited child, since its code may hang.

    Args:
        bundle: The original.
        path: The ``.onnx`` file to write.
        store: Keeps the file, so that steps and runs share one export.
        child: The process to export in; one of its own without it.

    Raises:
        ConversionError: It cannot be exported, or its batch axis is fixed.
        ChildError: It took too long or too much memory.
    """
    key = "exports/" + digest_json([path.name, bundle.manifest.digest, code_version(), tool_versions()])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        folder = Path(scratch) / "export"

        def make(empty: Path) -> None:
            (child.call if child else run_limited)(
                "leanloop.convert.export:write_original",
                {"bundle": str(bundle.folder), "path": str((empty / path.name).resolve())},
                folder=Path(scratch) / "log",
                timeout_seconds=EXPORT_SECONDS,
                memory_bytes=EXPORT_BYTES,
            )

        if store is None:
            folder.mkdir()
            make(folder)
        else:
            store.take_folder(key, folder, make)
        _move_files(folder, path.parent)


def write_original(bundle: str, path: str) -> None:
    """Body of `fp32_onnx`, with JSON arguments for the child process."""
    opened, target = Bundle(Path(bundle)), Path(path)
    if opened.has_module:
        export_onnx(opened, opened.module(), target)
    else:
        _copy_onnx(opened, target)


def _copy_onnx(bundle: Bundle, path: Path) -> None:
    # Parsed and written again: weights in other files come along, under our names.
    import onnx

    model = onnx.load(bundle.weights)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        file = Path(scratch) / path.name
        large = bundle.manifest.weights_bytes > _SINGLE_FILE_BYTES or model.ByteSize() > _SINGLE_FILE_BYTES
        onnx.save(model, file, save_as_external_data=large, location=f"{path.name}.data")
        _check(bundle, file, None)
        _move_files(Path(scratch), path.parent)


def _move_files(source: Path, destination: Path) -> None:
    # The weights go first: the file that names them appears when they are there.
    for file in sorted(source.iterdir(), reverse=True):
        file.replace(destination / file.name)


def _exported(bundle: Bundle, module: nn.Module) -> torch.onnx.ONNXProgram:
    import torch

    example = {name: values[:_EXAMPLE_BATCH] for name, values in bundle.samples.items()}
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                tensors(example),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=list(bundle.manifest.outputs),
                dynamic_shapes=tuple({0: batch} for _ in example),
                verbose=False,
            )
    except Exception as error:
        raise ConversionError(
            "The model cannot be exported to ONNX with a dynamic batch axis.",
            where=type(module).__name__,
            value=_reason(error),
            fix="Make `forward` free of fixed batch sizes and of control flow on values.",
        ) from error
    assert program is not None
    return program


def _reason(error: BaseException) -> str:
    # The exporter wraps the cause in pages of advice; the innermost exception says what happened.
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"[:500]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _keep_names_apart(model: ir.Model) -> None:
    """Rename inner tensors that are called as an input or output is.

    The exporter calls a tensor by its operator, and an owner's output may well be called ``embedding`` or ``add``.
    """
    graph = model.graph
    ends = [*graph.inputs, *graph.outputs]
    taken = {value.name for value in ends}
    inner = [value for node in graph.all_nodes() for value in node.outputs] + list(graph.initializers.values())
    names = taken | {value.name for value in inner}
    for value in inner:
        if value.name in taken and not any(value is end for end in ends):
            numbered = (f"{value.name}_{number}" for number in itertools.count(1))
            value.name = next(name for name in numbered if name not in names)
            names.add(value.name)


def _strip(model: ir.Model) -> None:
    # Stack traces can outweigh a small model's weights.
    graph = model.graph
    model.metadata_props.clear()
    graph.metadata_props.clear()
    values: list[Any] = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        values.extend(node.outputs)
    for value in values:
        value.doc_string = None
        value.metadata_props.clear()


def _weight_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _check(bundle: Bundle, file: Path, module: nn.Module | None) -> None:
    session = open_session(onnx_model_files(file, "fp32"), file.parent, threads=1)
    try:
        # Without a module, the rows of one large batch are what smaller batches must answer.
        whole = _run(session, bundle.samples, file) if module is None else {}
        for batch in CHECKED_BATCHES:
            inputs = _rows(bundle.samples, batch)
            outputs = _run(session, inputs, file)
            reference = _rows(whole, batch) if module is None else bundle.call(module, inputs)
            parity = compare(outputs, reference, precision="fp32", classification=False, batch_sizes=(batch,))
            if not parity.passed:
                raise ConversionError(
                    "The ONNX file answers otherwise than the model.",
                    where=f"{file.name}, batch {batch}",
                    value=f"maximum error {parity.max_abs_error:.3g}, cosine {parity.cosine:.6f}",
                    fix=f"Allowed are {parity.limits}. Does `forward` depend on chance, or on the rest of the batch?",
                )
    finally:
        session.close()


def _run(session: Session, inputs: Arrays, file: Path) -> Arrays:
    try:
        return session.run(inputs)
    except Exception as error:
        raise ConversionError(
            "The ONNX file fails at another batch size than it was exported at: its batch axis is fixed.",
            where=f"{file.name}, batch {len(next(iter(inputs.values())))}",
            value=str(error).splitlines()[0],
            fix="Export it with a dynamic batch axis.",
        ) from error


def _rows(arrays: Arrays, count: int) -> Arrays:
    return {name: np.ascontiguousarray(values[:count]) for name, values in arrays.items()}
