"""Runs in a limited child: loads a freshly packed model and its data once, and says what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from leanloop.bundle.bundle import Bundle
from leanloop.bundle.data import SPLITS, Arrays, Split
from leanloop.bundle.models import check_onnx
from leanloop.core.errors import BundleError, DataError

SAMPLES = 64


def probe(folder: str, external_data: list[str]) -> dict[str, Any]:
    """Check the packed model and data, and write ``samples.npz``.

    Returns:
        ``{split: {"samples": n, "labelled": bool}}`` of the splits that the owner has.

    Raises:
        BundleError, DataError: What is wrong, in the owner's terms.
    """
    bundle = Bundle(Path(folder))
    splits = {name: split for name in SPLITS if (split := bundle.find_split(name)) is not None}
    for needed in ("calibration", "validation", "test"):
        if needed not in splits:
            raise DataError(
                f"The data has no {needed} split.", fix="Optimising needs calibration, validation and test."
            )
    samples = splits["calibration"].take(slice(0, SAMPLES)).inputs
    temporary = bundle.folder / f".samples.{os.getpid()}.npz"
    np.savez(temporary, allow_pickle=False, **samples)
    temporary.replace(bundle.folder / "samples.npz")
    outputs = _run_model(bundle, {name: values[:8] for name, values in samples.items()}, tuple(external_data))
    for split in splits.values():
        _check_targets(bundle, split, outputs)
    return {name: {"samples": len(split), "labelled": split.targets is not None} for name, split in splits.items()}


def _run_model(bundle: Bundle, inputs: Arrays, external_data: tuple[str, ...]) -> Arrays:
    if bundle.manifest.kind == "onnx":
        outputs = _run_onnx(bundle, inputs, external_data)
    else:
        module = bundle.module()
        try:
            outputs = bundle.call(module, inputs)
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(
                "The model fails on the first samples of the data.",
                where=f"inputs {[(name, values.shape, str(values.dtype)) for name, values in inputs.items()]}",
                value=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                fix="Check `model.inputs` and the data.",
            ) from error
    count = len(next(iter(inputs.values())))
    for name, values in outputs.items():
        if values.shape[:1] != (count,):
            raise BundleError("An output has no batch axis first.", where=f"output {name!r}", value=values.shape)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise BundleError(
                "The model answers NaN or infinity on the first samples of the data.",
                where=f"output {name!r}",
                fix="Check the weights and how the data are normalised.",
            )
    return outputs


def _run_onnx(bundle: Bundle, inputs: Arrays, external_data: tuple[str, ...]) -> Arrays:
    import onnxruntime as ort

    model = check_onnx(bundle.weights, external_data)
    weights = {tensor.name for tensor in model.graph.initializer}
    takes = [value.name for value in model.graph.input if value.name not in weights]
    gives = [value.name for value in model.graph.output]
    if sorted(takes) != sorted(inputs) or gives != list(bundle.manifest.outputs):
        raise BundleError(
            "The .onnx file has other inputs or outputs than the settings.",
            where=str(bundle.weights),
            value=f"inputs {takes}, outputs {gives}",
            fix=f"The settings name inputs {sorted(inputs)} and outputs {list(bundle.manifest.outputs)}.",
        )
    try:
        session = ort.InferenceSession(str(bundle.weights), providers=["CPUExecutionProvider"])
        return dict(zip(gives, session.run(gives, inputs), strict=True))
    except Exception as error:
        raise BundleError(
            "The .onnx file cannot be run on the first samples of the data.",
            where=str(bundle.weights),
            value=str(error).splitlines()[0],
            fix="Check `model.inputs`; the batch axis must be dynamic.",
        ) from error


def _check_targets(bundle: Bundle, split: Split, outputs: Arrays) -> None:
    where = f"split {split.name!r}"
    first = outputs[bundle.manifest.outputs[0]]
    if split.targets is None:
        if bundle.metric.needs_labels and split.name in ("validation", "test"):
            raise DataError(
                "The metric needs labels, and the split has none.",
                where=where,
                value=bundle.metric.name,
                fix="Use `metric: agreement`, which needs none.",
            )
        return
    if bundle.manifest.task != "classification":
        if not np.isfinite(split.targets.astype(np.float64)).all():
            raise DataError("The targets hold NaN or infinite values.", where=where)
        return
    classes = first.shape[-1] if first.ndim > 1 and first.shape[-1] > 1 else 2
    if split.targets.dtype.kind not in "iu":
        raise DataError("The labels must be whole numbers.", where=where, value=str(split.targets.dtype))
    low, high = int(split.targets.min()), int(split.targets.max())
    if low < 0 or high >= classes:
        raise DataError(
            "A label is out of range.",
            where=where,
            value=low if low < 0 else high,
            fix=f"The model's first output has {classes} classes: labels go from 0 to {classes - 1}.",
        )
    if bundle.manifest.classes and len(bundle.manifest.classes) != classes:
        raise DataError(
            "There are not as many class names as classes.",
            where="model.classes",
            value=len(bundle.manifest.classes),
            fix=f"The model's first output has {classes}.",
        )
