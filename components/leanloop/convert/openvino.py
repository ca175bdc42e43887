"""OpenVINO: an ONNX file becomes an IR, an ``.xml`` with its ``.bin``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from leanloop.convert.ir import compact
from leanloop.convert.targets import TARGETS, Target
from leanloop.core.contracts import ModelFiles, Precision
from leanloop.core.errors import ConversionError
from leanloop.core.files import write_text

if TYPE_CHECKING:
    import openvino

_HINTS: dict[Precision, dict[str, str]] = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "fp16": {"INFERENCE_PRECISION_HINT": "f16"},
    "int8": {},
}
"""Left to itself, OpenVINO runs fp32 models in bf16 on a CPU that has AMX."""


def openvino_model_files(
    onnx: Path, folder: Path, precision: Precision = "fp32", hints: dict[str, str] | None = None
) -> ModelFiles:
    """Convert an ONNX file and write ``model.xml`` and ``model.bin`` into ``folder``.

    Weights of bf16 and fp16 variants are stored in 16 bits: they are rounded on loading anyway, and bytes count.

    Args:
        onnx: The ONNX file.
        folder: Where the IR goes.
        precision: How it will run; all but INT8 set the runtime's precision hint.
        hints: More runtime properties.

    Raises:
        ConversionError: OpenVINO cannot take the model.
    """
    try:
        save_ir(load_graph(onnx), folder, half_precision=precision in ("bf16", "fp16"))
    except RuntimeError as error:
        raise ConversionError(
            "OpenVINO cannot convert the model.", where=str(onnx), value=str(error).strip().splitlines()[-1]
        ) from error
    return ir_model_files(folder, precision, hints)


def load_graph(onnx: Path) -> openvino.Model:
    """An ONNX file as an OpenVINO graph, with constants folded.

    What ``openvino.convert_model`` gives, without its report of use to the vendor.
    """
    import openvino
    from openvino._offline_transformations import apply_moc_transformations

    model = openvino.Core().read_model(str(onnx))
    apply_moc_transformations(model, cf=True)
    return model


def save_ir(model: openvino.Model, folder: Path, *, half_precision: bool) -> None:
    """Write ``model.xml`` and ``model.bin`` into ``folder``.

    Args:
        model: The graph.
        folder: Made when it is not there.
        half_precision: Store floating-point weights in 16 bits.
    """
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    graph = folder / "model.xml"
    openvino.save_model(model, str(graph), compress_to_fp16=half_precision)
    write_text(graph, compact(graph.read_text(encoding="utf-8")))


def ir_model_files(folder: Path, precision: Precision, hints: dict[str, str] | None = None) -> ModelFiles:
    """Describe an IR that lies in ``folder`` as ``model.xml`` and ``model.bin``."""
    files = ("model.xml", "model.bin")
    return ModelFiles(
        runtime="openvino",
        precision=precision,
        main=files[0],
        files=files,
        size_bytes=sum((folder / name).stat().st_size for name in files),
        hints=_HINTS[precision] | (hints or {}),
    )


TARGETS.register("openvino")(
    Target(
        "openvino",
        extra="openvino",
        convert=openvino_model_files,
        convert_needs=("openvino",),
        run_needs=("openvino",),
    )
)
