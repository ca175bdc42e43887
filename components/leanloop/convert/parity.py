"""Parity: does a converted file answer as the model that it was made from, on real samples?

Parity catches a broken conversion. How much of the owner's metric an optimised model keeps is the benchmark's
question: a pruned and distilled model rightly answers otherwise than the original, so a converted candidate is held
against its own fp32 form, and its agreement with the original is reported beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from leanloop.bundle import Arrays, Bundle, Split, classes_of
from leanloop.core.contracts import ModelFiles, Parity, Precision
from leanloop.core.errors import ConversionError
from leanloop.runtime import Session, open_session, original_outputs

VALIDATION_ROWS = 256
PARITY_BATCHES = (1, 2, 7)


@dataclass(frozen=True)
class Limits:
    """What a faithful conversion stays within.

    Attributes:
        relative_error: Largest absolute error of any output value, over the largest absolute value of that output.
            None: rounding can move single values far, so only the other two count.
        cosine: Smallest cosine between an output, all samples together, and its reference.
        top1_agreement: Smallest share of samples with the same predicted class (classification only).
    """

    relative_error: float | None
    cosine: float
    top1_agreement: float


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(relative_error=1e-3, cosine=0.9999, top1_agreement=0.995),
    "bf16": Limits(relative_error=0.1, cosine=0.999, top1_agreement=0.97),
    "fp16": Limits(relative_error=0.02, cosine=0.9999, top1_agreement=0.99),
    "int8": Limits(relative_error=None, cosine=0.95, top1_agreement=0.90),
}
"""By precision of the converted file. fp32 differs by the order of sums only; bf16 has 8 bits of mantissa, fp16
11; INT8's error is the quantiser's doing and is judged by the metric, so its limits only tell a quantised model from a
broken one."""


def parity_samples(bundle: Bundle) -> Arrays:
    """The inputs on which parity is checked: the bundle's samples, then up to 256 rows of validation."""
    validation = bundle.split("validation").take(slice(0, VALIDATION_ROWS)).inputs
    return {name: np.concatenate([values, validation[name]]) for name, values in bundle.samples.items()}


def check_parity(
    bundle: Bundle, model: ModelFiles, folder: Path, *, threads: int, reference: Arrays | None = None
) -> Parity:
    """Run a converted model on `parity_samples`, at batches 1, 2, 7 and the rest at once, and compare.

    Args:
        bundle: The owner's bundle.
        model: The converted model's files, in ``folder``.
        folder: Where they lie.
        threads: CPU threads.
        reference: Outputs on `parity_samples` of the fp32 model that was converted. None: of the original.

    Returns:
        The comparison with the reference, judged by `LIMITS`. When the reference is not the original, the note tells
        how far the answers are from the original's.

    Raises:
        ConversionError: The model cannot be run at one of the batch sizes, or answers NaN or infinity.
    """
    inputs = parity_samples(bundle)
    session = open_session(model, folder, threads=threads, bundle=bundle)
    try:
        outputs, batch_sizes = _answers(session, inputs, bundle.manifest.outputs, folder / model.main)
    finally:
        session.close()
    classification = bundle.manifest.task == "classification"
    original = _original_on_samples(bundle)
    parity = compare(
        outputs,
        reference or original,
        precision=model.precision,
        classification=classification,
        batch_sizes=batch_sizes,
    )
    if reference is None:
        return parity
    away = compare(outputs, original, precision=model.precision, classification=classification)
    agreement = "" if away.top1_agreement is None else f", top-1 agreement {away.top1_agreement:.4f}"
    return parity.model_copy(
        update={
            "note": f"against the candidate's own fp32 model; with the original: cosine {away.cosine:.4f}{agreement}"
        }
    )


def compare(
    outputs: Arrays,
    reference: Arrays,
    *,
    precision: Precision,
    classification: bool,
    batch_sizes: tuple[int, ...] = (),
) -> Parity:
    """Compare outputs with a reference, output by output, and judge them by `LIMITS`.

    Args:
        outputs: By name, [samples, ...].
        reference: The same names, shapes and samples; the first is the one that classifies.
        precision: Which limits hold.
        classification: Whether to compare predicted classes.
        batch_sizes: At which the outputs were computed, for the record.

    Raises:
        ConversionError: A name or a shape differs, or a value is NaN or infinite.
    """
    limits = LIMITS[precision]
    errors: list[tuple[float, float, float]] = []
    cosines = []
    for name, wanted in reference.items():
        given = outputs.get(name)
        if given is None or given.shape != wanted.shape:
            raise ConversionError(
                "The converted model lacks an output, or gives it another shape.",
                where=f"output {name!r}",
                value=None if given is None else given.shape,
                fix=f"Expected {wanted.shape}.",
            )
        if not np.isfinite(given).all() or not np.isfinite(wanted).all():
            raise ConversionError("The converted model answers NaN or infinity.", where=f"output {name!r}")
        error, scale = _maximum(given.astype(np.float64) - wanted), _maximum(wanted)
        errors.append((error / scale if scale else error, error, scale or 1.0))
        cosines.append(_cosine(given, wanted))
    _, max_abs_error, scale = max(errors)
    cosine = min(cosines)
    first = next(iter(reference))
    top1 = float((classes_of(outputs[first]) == classes_of(reference[first])).mean()) if classification else None
    allowed = {"cosine": limits.cosine}
    if limits.relative_error is not None:
        allowed["max_abs_error"] = limits.relative_error * scale
    if top1 is not None:
        allowed["top1_agreement"] = limits.top1_agreement
    return Parity(
        samples=len(reference[first]),
        batch_sizes=batch_sizes,
        max_abs_error=max_abs_error,
        cosine=cosine,
        top1_agreement=top1,
        passed=cosine >= limits.cosine
        and max_abs_error <= allowed.get("max_abs_error", np.inf)
        and (top1 is None or top1 >= limits.top1_agreement),
        limits=allowed,
    )


def _answers(session: Session, inputs: Arrays, names: tuple[str, ...], where: Path) -> tuple[Arrays, tuple[int, ...]]:
    samples = len(next(iter(inputs.values())))
    batch_sizes = (*PARITY_BATCHES, samples - sum(PARITY_BATCHES))
    parts, start = [], 0
    for batch in batch_sizes:
        rows = {name: np.ascontiguousarray(values[start : start + batch]) for name, values in inputs.items()}
        try:
            parts.append(session.run(rows))
        except Exception as error:
            raise ConversionError(
                "The converted model cannot be run.",
                where=f"{where}, batch {batch}",
                value=str(error).splitlines()[0],
                fix="Its batch axis must be dynamic.",
            ) from error
        start += batch
    return {name: np.concatenate([part[name] for part in parts]) for name in names}, batch_sizes


@lru_cache(maxsize=2)
def _original_on_samples(bundle: Bundle) -> Arrays:
    return original_outputs(bundle, Split("parity", parity_samples(bundle), None))


def _maximum(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0.0:
        return float(np.array_equal(a, b))
    return float(np.clip(a @ b / norms, -1.0, 1.0))
