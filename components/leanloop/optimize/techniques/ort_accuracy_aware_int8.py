"""Accuracy-aware static INT8 for ONNX Runtime: the layers that quantising hurts most are given back to float.

Most of the damage usually comes from a few layers. With ``f`` the float model and ``q_l`` the one in which layer ``l``
alone is quantised, on calibration samples ``x``, a layer's damage is::

    damage(l) = mean((q_l(x) - f(x))^2) / mean(f(x)^2)         f(x): [samples, ...], the mean over all of it

Layers are ranked by it. The fewest of the worst ones are left in float with which the metric drops by no more than is
allowed: found by bisection, so that with ``n`` layers ``n`` small models rank and about ``log2(n)`` are scored. The
damage of all others stays below the goal, so every layer given back is paid for by a measurement.

Source: NNCF, "Quantization with accuracy control" (ranking and giving back); ONNX Runtime, ``nodes_to_exclude`` of
``quantize_static``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx

from leanloop.bundle import Bundle, Split
from leanloop.convert import onnx_model_files
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import TrialError
from leanloop.core.events import emit
from leanloop.optimize.techniques.base import TECHNIQUES, GraphTechnique, Workshop, check
from leanloop.optimize.techniques.findings import Findings, drops_to_try
from leanloop.optimize.techniques.ort_static_int8 import Calibrated, OrtStaticInt8Config, integer_share
from leanloop.runtime import answers_of

_RANKED = ("Conv", "MatMul", "Gemm")
_DRAFT_SAMPLES = 32


@dataclass(frozen=True)
class OrtAccuracyAwareInt8Config(OrtStaticInt8Config):
    """How much the metric may drop, beside how ranges are found.

    Attributes:
        max_drop: Relative to the float model's metric, on the calibration split.
        ranked_samples: Of the calibration split, to rank by.
    """

    technique: ClassVar[str] = "ort_accuracy_aware_int8"
    max_drop: float = 0.002
    ranked_samples: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.max_drop < 1, self, "max_drop", "from 0 up to 1")
        check(self.ranked_samples >= 1, self, "ranked_samples", "at least 1")


def why_not(bundle: Bundle) -> str | None:
    """Every bundle has a calibration split, and a metric without labels compares with the original's answers."""
    return None


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[OrtAccuracyAwareInt8Config]:
    """A small drop first, then hardly any."""
    return [OrtAccuracyAwareInt8Config(), OrtAccuracyAwareInt8Config(max_drop=0.0005)]


def by_goal(bundle: Bundle, budget_minutes: float, findings: Findings) -> Sequence[OrtAccuracyAwareInt8Config]:
    """All of the goal's drop first, since more in integers is faster; stricter ones for what falls more elsewhere."""
    usual = [config.max_drop for config in choices(bundle, budget_minutes)]
    return [OrtAccuracyAwareInt8Config(max_drop=drop) for drop in drops_to_try(findings, usual)]


def quantise(source: Path, folder: Path, config: OrtAccuracyAwareInt8Config, workshop: Workshop) -> ModelFiles:
    """Quantise an fp32 ONNX file as far as the metric allows.

    Raises:
        TrialError: The drop is held only with all layers in float.
    """
    with tempfile.TemporaryDirectory(prefix="leanloop-aware-") as name:
        scratch = Path(name)
        calibrated = Calibrated.measure(source, config, workshop, scratch)
        answer, metric = _Answers(calibrated, workshop, scratch), workshop.bundle.metric
        split = workshop.bundle.split("calibration")
        reference = answer.float_model(split)
        truth = workshop.bundle.truth(split, lambda: {workshop.bundle.manifest.outputs[0]: reference})
        limit = metric.limit(metric.score(reference, truth), config.max_drop)

        def holds(left_in_float: Sequence[str]) -> bool:
            return metric.meets(metric.score(answer(left_in_float, split), truth), limit)

        ranked = [] if holds([]) else ranked_by_damage(answer, split.take(slice(0, config.ranked_samples)))
        count = fewest(len(ranked), lambda count: holds(ranked[:count]))
        if count is None:
            raise TrialError("No layer can be quantised within the drop.", value=config.max_drop)
        folder.mkdir(parents=True, exist_ok=True)
        calibrated.write(folder / "model.onnx", ranked[:count])
    emit(
        "int8_coverage",
        technique=config.technique,
        share=round(integer_share(folder / "model.onnx"), 3),
        left_in_float=ranked[:count],
    )
    return onnx_model_files(folder / "model.onnx", "int8")


def fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """The least count from 0 to below ``most`` that holds, if more never hurts; None when none does.

    Args:
        most: With so many there is nothing left to quantise; 0 says that 0 is known to hold.
        holds: Asked about counts from 1 on.
    """
    if most == 0:
        return 0
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high if high < most else None


class _Answers:
    """First outputs of quantised models of one calibrated file."""

    def __init__(self, calibrated: Calibrated, workshop: Workshop, scratch: Path) -> None:
        self._calibrated, self._workshop, self._scratch = calibrated, workshop, scratch
        self.layers = [node.name for node in onnx.load(calibrated.prepared).graph.node if node.op_type in _RANKED]

    def __call__(self, left_in_float: Sequence[str], split: Split) -> np.ndarray:
        path = self._scratch / "quantised" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        self._calibrated.write(path, left_in_float)
        return self._of(onnx_model_files(path, "int8"), path.parent, split)

    def float_model(self, split: Split) -> np.ndarray:
        path = self._calibrated.prepared
        return self._of(onnx_model_files(path, "fp32"), path.parent, split)

    def _of(self, model: ModelFiles, folder: Path, split: Split) -> np.ndarray:
        first = self._workshop.bundle.manifest.outputs[0]
        return answers_of(model, folder, split, threads=self._workshop.threads, outputs=[first])[first]


def ranked_by_damage(answer: _Answers, split: Split) -> list[str]:
    """Names of the layers, the one first that hurts most when it alone is quantised."""
    reference = answer.float_model(split).astype(np.float64)
    damage = {
        layer: float(np.square(answer([other for other in answer.layers if other != layer], split) - reference).mean())
        for layer in answer.layers
    }
    return sorted(damage, key=lambda layer: -damage[layer])


TECHNIQUES.register(OrtAccuracyAwareInt8Config.technique)(
    GraphTechnique(
        name=OrtAccuracyAwareInt8Config.technique,
        config=OrtAccuracyAwareInt8Config,
        target="onnxruntime",
        why_not=why_not,
        choices=choices,
        apply=quantise,
        informed=by_goal,
        draft=lambda config: replace(config, samples=_DRAFT_SAMPLES, max_drop=0.99),
        lengthy=True,
    )
)
