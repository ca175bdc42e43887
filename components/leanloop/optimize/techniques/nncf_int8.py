"""Post-training INT8 for OpenVINO by NNCF.

Fake-quantise nodes are put where the CPU plugin has integer kernels, ranges come from the calibration split, and bias
correction takes out the mean error that rounding the weights adds to each layer: ``bias += E[y_fp32 - y_int8]``, by
output channel. Weights [out, in, ...] have one scale per output channel, activations one per tensor; shapes stay. The
``fast`` one feeds each layer the fp32 model's activations; the ``accurate`` one those of the model quantised up to
there, so that errors do not add up from layer to layer. On residual networks of a few layers the fast one loses 0.3 to
1 point of accuracy that the accurate one keeps, for seconds of work more; on hundreds of layers it takes minutes.

Recurrent layers stay in float; ONNX Runtime's dynamic INT8 takes them. On CPUs with AMX the ``CPU_SPR`` scheme is used,
which leaves out one quantiser before a residual sum. The overflow fix (7-bit ranges) is for CPUs without VNNI only.

Source: NNCF, "Post-Training Quantization" documentation; Nagel et al., "Data-Free Quantization", ICCV 2019 (bias
correction); Xiao et al., "SmoothQuant", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from leanloop.bundle import Arrays, Bundle
from leanloop.convert import TARGETS, ir_model_files, load_graph, save_ir
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import TrialError
from leanloop.core.hardware import instruction_sets
from leanloop.optimize.techniques.base import TECHNIQUES, Config, GraphTechnique, Workshop, check
from leanloop.optimize.techniques.training import normalises_layers

_BATCH = 10
_DRAFT_SAMPLES = 20

_RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "RNNCell")
"""Left in float. NNCF 3.4 would quantise what goes into them, and OpenVINO 2026.4 answers wrongly then: a trained LSTM
of 24 units gives vectors at cosine 0.58 to those of before, 0.9998 when it stays as it is."""


@dataclass(frozen=True)
class NncfInt8Config(Config):
    """Which quantisation scheme, on how many samples.

    Attributes:
        preset: ``mixed`` (asymmetric activations) or ``performance`` (symmetric).
        samples: Of the calibration split, at most.
        bias_correction: ``accurate`` or ``fast``.
        smooth: As for transformers: outliers of activations are moved into the weights behind layer norms
            (SmoothQuant), and attention is quantised as a whole.
    """

    technique: ClassVar[str] = "nncf_int8"
    preset: str = "mixed"
    samples: int = 300
    bias_correction: str = "accurate"
    smooth: bool = False

    def __post_init__(self) -> None:
        check(self.preset in ("mixed", "performance"), self, "preset", "mixed or performance")
        check(self.samples >= 1, self, "samples", "at least 1")
        check(self.bias_correction in ("accurate", "fast"), self, "bias_correction", "accurate or fast")
        check(isinstance(self.smooth, bool), self, "smooth", "true or false")


def why_not(bundle: Bundle) -> str | None:
    """Needs the OpenVINO extra."""
    return TARGETS["openvino"].can_convert()


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[NncfInt8Config]:
    """Asymmetric activations, then symmetric ones; where there are layer norms, as for transformers in the end.

    That comes last, since NNCF 3.4 breaks a matrix product behind a mean over tokens by it (cosine 0.36). It has the
    fast correction: a text encoder of six layers keeps a cosine of 0.998 with that, and 0.83 with the accurate one.
    """
    usual = [NncfInt8Config(), NncfInt8Config(preset="performance")]
    smooth = bundle.has_module and normalises_layers(bundle.module())
    return [*usual, NncfInt8Config(bias_correction="fast", smooth=True)] if smooth else usual


def quantise(source: Path, folder: Path, config: NncfInt8Config, workshop: Workshop) -> ModelFiles:
    """Convert an fp32 ONNX file, quantise it and write the IR.

    Raises:
        TrialError: NNCF found nothing to quantise.
    """
    # Here, not above: importing NNCF takes seconds.
    import nncf

    batches = calibration_batches(config, workshop)
    quantised = nncf.quantize(
        load_graph(source),
        nncf.Dataset(batches),
        advanced_parameters=overflow_fix(),
        **scheme(config, len(batches)),
    )
    if not any(operation.get_type_name() == "FakeQuantize" for operation in quantised.get_ops()):
        raise TrialError("NNCF found no operator to quantise.", where=str(source))
    save_ir(quantised, folder, half_precision=True)
    return ir_model_files(folder, "int8")


def calibration_batches(config: NncfInt8Config, workshop: Workshop) -> list[Arrays]:
    """Inputs of the calibration split, in small batches."""
    split = workshop.bundle.split("calibration").take(slice(0, config.samples))
    return [batch.inputs for batch in split.batches(min(_BATCH, len(split)))]


def scheme(config: NncfInt8Config, batches: int) -> dict[str, Any]:
    """NNCF's arguments for a config on this machine."""
    import nncf

    return {
        "preset": nncf.QuantizationPreset(config.preset),
        "target_device": nncf.TargetDevice.CPU_SPR if "amx_int8" in instruction_sets() else nncf.TargetDevice.CPU,
        "subset_size": batches,
        "fast_bias_correction": config.bias_correction == "fast",
        "ignored_scope": nncf.IgnoredScope(types=list(_RECURRENT), validate=False),
        "model_type": nncf.ModelType.TRANSFORMER if config.smooth else None,
    }


def overflow_fix() -> Any:
    """NNCF's advanced parameters: 7-bit ranges in the first layer where sums of two products may overflow 16 bits."""
    import nncf

    fix = nncf.OverflowFix
    has_vnni = bool(instruction_sets() & {"avx512_vnni", "avx_vnni"})
    return nncf.AdvancedQuantizationParameters(overflow_fix=fix.DISABLE if has_vnni else fix.FIRST_LAYER)


TECHNIQUES.register(NncfInt8Config.technique)(
    GraphTechnique(
        name=NncfInt8Config.technique,
        config=NncfInt8Config,
        target="openvino",
        why_not=why_not,
        choices=choices,
        apply=quantise,
        draft=lambda config: replace(config, samples=_DRAFT_SAMPLES, bias_correction="fast"),
    )
)
