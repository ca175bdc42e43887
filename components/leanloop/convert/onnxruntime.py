"""ONNX Runtime: loads the ONNX file as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from leanloop.convert.targets import TARGETS, Target
from leanloop.core.contracts import ModelFiles, Precision


def onnx_model_files(path: Path, precision: Precision, hints: dict[str, str] | None = None) -> ModelFiles:
    """Describe an ONNX file, and the data file beside it where it has one, for ONNX Runtime."""
    files = [path, *path.parent.glob(f"{path.name}.data")]
    return ModelFiles(
        runtime="onnxruntime",
        precision=precision,
        main=path.name,
        files=tuple(file.name for file in files),
        size_bytes=sum(file.stat().st_size for file in files),
        hints=hints or {},
    )


def to_onnxruntime(
    onnx: Path, folder: Path, precision: Precision = "fp32", hints: dict[str, str] | None = None
) -> ModelFiles:
    """Copy an ONNX file, and the data file beside it, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (onnx, *onnx.parent.glob(f"{onnx.name}.data")):
        shutil.copyfile(file, folder / file.name)
    return onnx_model_files(folder / onnx.name, precision, hints)


TARGETS.register("onnxruntime")(
    Target("onnxruntime", extra="", convert=to_onnxruntime, convert_needs=("onnx",), run_needs=("onnxruntime",))
)
