"""NNCF's post-training quantisation for OpenVINO, without and with accuracy control, and as it is for transformers.

    python nncf_int8.py WORK plain|controlled|transformer

Runs in an environment of its own, on what ``peers.py`` left in WORK: ``model.onnx``, ``calibration.npz``, and for the
controlled one ``validation.npz``, whose ``target`` are the labels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

MAX_DROP = 0.0125
"""On validation, as our own searches are allowed (``rows.py``)."""

BATCH = 10


def main(work: Path, how: str) -> None:
    model = openvino.Core().read_model(str(work / "model.onnx"))
    calibration = nncf.Dataset(batches(work / "calibration.npz"))
    if how == "plain":
        quantised = nncf.quantize(model, calibration, preset=nncf.QuantizationPreset.MIXED)
    elif how == "transformer":
        quantised = nncf.quantize(model, calibration, model_type=nncf.ModelType.TRANSFORMER)
    else:
        quantised = nncf.quantize_with_accuracy_control(
            model,
            calibration,
            nncf.Dataset(batches(work / "validation.npz"), lambda batch: batch),
            accuracy,
            max_drop=MAX_DROP,
            drop_type=nncf.DropType.RELATIVE,
            preset=nncf.QuantizationPreset.MIXED,
        )
    (work / how).mkdir(exist_ok=True)
    openvino.save_model(quantised, str(work / how / "model.xml"), compress_to_fp16=False)


def batches(file: Path) -> list[dict[str, np.ndarray]]:
    """Small batches of all arrays of a file."""
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = len(next(iter(arrays.values())))
    return [{name: values[at : at + BATCH] for name, values in arrays.items()} for at in range(0, count, BATCH)]


def accuracy(model: openvino.CompiledModel, data: Iterable[dict[str, np.ndarray]]) -> tuple[float, list[Any]]:
    """Share of right answers, and one score per batch."""
    request, right = model.create_infer_request(), []
    for batch in data:
        inputs = {name: values for name, values in batch.items() if name != "target"}
        answers = request.infer(inputs)[0]
        right.append(float(np.mean(answers.argmax(-1) == batch["target"])))
    return float(np.mean(right)), right


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
