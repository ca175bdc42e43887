"""NNCF's post-training quantisation for OpenVINO, without and with accuracy control, and as it is for transformers.

    python nncf_int8.py WORK plain|transformer
    python nncf_int8.py WORK controlled|controlled-transformer DROP

Runs in an environment of its own, on what ``peers.py`` left in WORK: ``model.onnx``, ``calibration.npz``, and for the
controlled ones ``validation.npz``, whose ``target`` are the labels; without labels the original's answers are kept by
their mean cosine. DROP is the share of either that may be lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

BATCH = 10
TRANSFORMER_STEPS, RANKED_SAMPLES = 20, 60
"""Of accuracy control on a transformer: layers given back at most, and samples by which they are ranked; minutes."""

Judge = Callable[[openvino.CompiledModel, Iterable[dict[str, np.ndarray]]], tuple[float, list[Any]]]


def main(work: Path, how: str, drop: float) -> None:
    model = openvino.Core().read_model(str(work / "model.onnx"))
    calibration = nncf.Dataset(batches(work / "calibration.npz"))
    transformer = how.endswith("transformer")
    kind: dict[str, Any] = (
        {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {"preset": nncf.QuantizationPreset.MIXED}
    )
    if how.startswith("controlled"):
        validation = batches(work / "validation.npz")
        limits = {"max_num_iterations": TRANSFORMER_STEPS, "ranking_subset_size": RANKED_SAMPLES // BATCH}
        quantised = nncf.quantize_with_accuracy_control(
            model,
            calibration,
            nncf.Dataset(validation, lambda batch: batch),
            accuracy if "target" in validation[0] else cosine_to(answers(model, validation)),
            max_drop=drop,
            drop_type=nncf.DropType.RELATIVE,
            advanced_accuracy_restorer_parameters=(
                nncf.AdvancedAccuracyRestorerParameters(**limits) if transformer else None
            ),
            **kind,
        )
    else:
        quantised = nncf.quantize(model, calibration, **kind)
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
        right.append(float(np.mean(request.infer(inputs)[0].argmax(-1) == batch["target"])))
    return float(np.mean(right)), right


def answers(model: openvino.Model, data: Iterable[dict[str, np.ndarray]]) -> dict[bytes, np.ndarray]:
    """The original's answers to each batch, by its content: what NNCF hands over is a choice of batches."""
    request = openvino.Core().compile_model(model, "CPU").create_infer_request()
    return {content(batch): request.infer(batch)[0].copy() for batch in data}


def content(batch: dict[str, np.ndarray]) -> bytes:
    """Tells a batch from others."""
    return b"".join(batch[name].tobytes() for name in sorted(batch))


def cosine_to(original: dict[bytes, np.ndarray]) -> Judge:
    """A judge by the mean cosine to the original's answers, with one score per batch."""

    def judge(model: openvino.CompiledModel, data: Iterable[dict[str, np.ndarray]]) -> tuple[float, list[Any]]:
        request, scores = model.create_infer_request(), []
        for batch in data:
            expected, found = original[content(batch)], request.infer(batch)[0]
            lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(found, axis=-1)
            scores.append(float(np.mean((expected * found).sum(-1) / lengths)))
        return float(np.mean(scores)), scores

    return judge


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
