"""ONNX Runtime's own post-training quantisation, as its documentation has it for x86 with VNNI.

    python plain.py WORK static|dynamic

Runs in an environment of its own, on what ``peers.py`` left in WORK: ``model.onnx``, ``calibration.npz``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 10


class Samples(CalibrationDataReader):
    """Small batches of the calibration samples."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
        count = len(next(iter(arrays.values())))
        self._batches: Iterator[dict[str, np.ndarray]] = iter(
            [{name: values[at : at + BATCH] for name, values in arrays.items()} for at in range(0, count, BATCH)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def main(work: Path, how: str) -> None:
    prepared, out = work / "prepared.onnx", work / how
    out.mkdir(exist_ok=True)
    try:
        quant_pre_process(str(work / "model.onnx"), str(prepared))
    except TypeError:
        # ONNX Runtime 1.31 gives up on symbolic shapes where an Expand's is computed, as in the text encoder.
        quant_pre_process(str(work / "model.onnx"), str(prepared), skip_symbolic_shape=True)
    if how == "dynamic":
        quantize_dynamic(str(prepared), str(out / "model.onnx"), weight_type=QuantType.QInt8, per_channel=True)
        return
    quantize_static(
        str(prepared),
        str(out / "model.onnx"),
        Samples(work / "calibration.npz"),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
