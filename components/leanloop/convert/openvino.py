"""OpenVINO: an ONNX file becomes an IR, an ``.xml`` with its ``.bin``."""

from __future__ import annotations

from pathlib import Path

from leanloop.convert.targets import TARGETS, Target
from leanloop.core.contracts import ModelFiles, Precision
from leanloop.core.errors import ConversionError

_HINTS: dict[Precision, dict[str, str]] = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "int8": {},
}
"""Left to itself, OpenVINO runs fp32 models in bf16 on a CPU that has AMX."""


def openvino_model_files(
    onnx: Path, folder: Path, precision: Precision = "fp32", hints: dict[str, str] | None = None
) -> ModelFiles:
    """Convert an ONNX file and write ``model.xml`` and ``model.bin`` into ``folder``.

    Weights of a bf16 variant are stored in 16 bits: they are rounded on loading anyway, and bytes count.

    Args:
        onnx: The ONNX file.
        folder: Where the IR goes.
        precision: How it will run; fp32 and bf16 set the runtime's precision hint.
        hints: More runtime properties.

    Raises:
        ConversionError: OpenVINO cannot take the model.
    """
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    try:
        # The converter of the same library would do no more for ONNX, and report its use to the vendor.
        model = openvino.Core().read_model(str(onnx))
        openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=precision == "bf16")
    except Exception as error:
        raise ConversionError(
            "OpenVINO cannot convert the model.", where=str(onnx), value=str(error).strip().splitlines()[-1]
        ) from error
    return ir_model_files(folder, precision, hints)


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
