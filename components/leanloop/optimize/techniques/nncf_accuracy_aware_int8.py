"""Accuracy-aware INT8 for OpenVINO: NNCF gives operators back to float until the metric holds.

All is quantised as by `nncf_int8`. Where the metric then drops by more than is allowed, groups of quantisers are ranked
by how far the outputs move back when one is left out (normalised mean squared error on the samples that moved most),
and left out from the top, one by one, with a measurement after each::

    leave out the group of highest rank; metric better: keep it so; worse: undo it; drop held: done

Shapes and kinds of layers stay as they are: what is given back is the pair of quantisers around an operator.

Source: NNCF, "Quantization with accuracy control" documentation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from leanloop.bundle import Arrays, Bundle
from leanloop.convert import ir_model_files, load_graph, save_ir
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import TrialError
from leanloop.optimize.techniques import nncf_int8
from leanloop.optimize.techniques.base import TECHNIQUES, GraphTechnique, Workshop, check
from leanloop.optimize.techniques.findings import Findings, drops_to_try
from leanloop.optimize.techniques.nncf_int8 import NncfInt8Config, calibration_batches, overflow_fix, scheme
from leanloop.runtime import answers_of

_BATCH = 10


@dataclass(frozen=True)
class NncfAccuracyAwareInt8Config(NncfInt8Config):
    """How much the metric may drop, beside the quantisation scheme.

    Attributes:
        max_drop: Relative to the float model's metric, on the calibration split.
        ranked_samples: Of the calibration split, to rank by.
    """

    technique: ClassVar[str] = "nncf_accuracy_aware_int8"
    max_drop: float = 0.002
    ranked_samples: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.max_drop < 1, self, "max_drop", "from 0 up to 1")
        check(self.ranked_samples >= _BATCH, self, "ranked_samples", f"at least {_BATCH}")


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[NncfAccuracyAwareInt8Config]:
    """A small drop first, then hardly any."""
    return [NncfAccuracyAwareInt8Config(), NncfAccuracyAwareInt8Config(max_drop=0.0005)]


def by_goal(bundle: Bundle, budget_minutes: float, findings: Findings) -> Sequence[NncfAccuracyAwareInt8Config]:
    """All of the goal's drop first, since more in integers is faster; stricter ones for what falls more elsewhere."""
    usual = [config.max_drop for config in choices(bundle, budget_minutes)]
    return [NncfAccuracyAwareInt8Config(max_drop=drop) for drop in drops_to_try(findings, usual)]


def quantise(source: Path, folder: Path, config: NncfAccuracyAwareInt8Config, workshop: Workshop) -> ModelFiles:
    """Quantise an fp32 ONNX file as far as the metric allows.

    Raises:
        TrialError: NNCF fails, or leaves nothing quantised.
    """
    import nncf

    bundle, split = workshop.bundle, workshop.bundle.split("calibration")
    graph = load_graph(source)
    first = bundle.manifest.outputs[0]
    with tempfile.TemporaryDirectory(prefix="leanloop-float-") as name:
        save_ir(graph, Path(name), half_precision=False)
        files = ir_model_files(Path(name), "fp32")
        reference = answers_of(files, Path(name), split, threads=workshop.threads, outputs=[first])
    truth = bundle.truth(split, lambda: reference)
    metric = bundle.metric
    original = metric.score(reference[first], truth)
    sign = 1.0 if metric.higher_is_better else -1.0

    def score(model: Any, items: Iterable[tuple[Arrays, np.ndarray]]) -> tuple[float, list[list[np.ndarray]]]:
        # The model answers into the same memory again and again.
        answered = [(np.array(model(inputs)[first]), rows) for inputs, rows in items]
        outputs, rows = (np.concatenate(parts) for parts in zip(*answered, strict=True))
        return sign * metric.score(outputs, truth[rows]), [[output] for output, _ in answered]

    batches = calibration_batches(config, workshop)
    rows = np.array_split(np.arange(len(split)), max(1, len(split) // _BATCH))
    items = [(split.take(slice(part[0], part[-1] + 1)).inputs, part) for part in rows]
    try:
        quantised = nncf.quantize_with_accuracy_control(
            graph,
            nncf.Dataset(batches),
            nncf.Dataset(items, lambda item: item[0]),
            score,
            max_drop=abs(metric.limit(original, config.max_drop) - original),
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_quantization_parameters=overflow_fix(),
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                ranking_subset_size=max(1, config.ranked_samples // _BATCH), num_ranking_workers=1
            ),
            **scheme(config, len(batches)),
        )
    except nncf.errors.InternalError as error:
        raise TrialError("NNCF's accuracy control failed.", where=str(source), value=error) from error
    if not any(operation.get_type_name() == "FakeQuantize" for operation in quantised.get_ops()):
        raise TrialError("Nothing can be quantised within the drop.", value=config.max_drop)
    save_ir(quantised, folder, half_precision=True)
    return ir_model_files(folder, "int8")


TECHNIQUES.register(NncfAccuracyAwareInt8Config.technique)(
    GraphTechnique(
        name=NncfAccuracyAwareInt8Config.technique,
        config=NncfAccuracyAwareInt8Config,
        target="openvino",
        why_not=nncf_int8.why_not,
        choices=choices,
        apply=quantise,
        informed=by_goal,
        draft=lambda config: replace(config, samples=20, bias_correction="fast", max_drop=0.99),
        lengthy=True,
    )
)
