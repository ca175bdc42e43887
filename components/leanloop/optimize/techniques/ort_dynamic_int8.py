"""Dynamic INT8 for ONNX Runtime: weights in 8 bits, activation ranges measured anew on every call.

A product ``y = x W`` of activations ``x`` [N, in] and weights ``W`` [in, out] becomes one of integers. Weights are
rounded once, signed and symmetric, with one scale per output channel [out] (or one for all); activations on every
call, unsigned, with one scale and zero point for the whole tensor, from the least and largest value of it (and 0)::

    W_q = clip(round(W / s_W), -127, 127)                 s_W = max|W| / 127, by column
    x_q = clip(round(x / s_x) + z_x, 0, 255)              s_x = (max x - min x) / 255
    y  ~= s_x * s_W * ((x_q - z_x) W_q)                   sums in 32 bits

So it needs no calibration, and follows activations that range otherwise from call to call; each call pays for a pass
over ``x``, which is little beside a wide product and much beside a narrow one. It suits transformers, recurrent
networks and perceptrons. Convolutions are left alone: as ``ConvInteger`` they run several times slower than in fp32.
Weights take a quarter of their bytes; shapes stay. Without VNNI they are kept to 7 bits (``reduce_range``).

Source: ONNX Runtime, documentation of ``quantize_dynamic``; onnxruntime issue 16009 on convolutions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from leanloop.bundle import Bundle
from leanloop.convert import onnx_model_files
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import TrialError
from leanloop.core.hardware import instruction_sets
from leanloop.optimize.techniques.base import TECHNIQUES, Config, GraphTechnique, Workshop, check
from leanloop.optimize.techniques.ort_static_int8 import integer_share, prepare

_OPERATORS = ("MatMul", "Gemm", "Attention", "LSTM")


@dataclass(frozen=True)
class OrtDynamicInt8Config(Config):
    """How fine the weights' scales are.

    Attributes:
        per_channel: One scale per output channel instead of one per weight tensor.
    """

    technique: ClassVar[str] = "ort_dynamic_int8"
    per_channel: bool = True

    def __post_init__(self) -> None:
        check(isinstance(self.per_channel, bool), self, "per_channel", "true or false")


def why_not(bundle: Bundle) -> str | None:
    """Needs nothing but the model."""
    return None


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[OrtDynamicInt8Config]:
    """Per channel, then per tensor."""
    return [OrtDynamicInt8Config(), OrtDynamicInt8Config(per_channel=False)]


def quantise(source: Path, folder: Path, config: OrtDynamicInt8Config, workshop: Workshop) -> ModelFiles:
    """Quantise the matrix products of an fp32 ONNX file.

    Raises:
        TrialError: It has none.
    """
    from onnxruntime import quantization

    target = folder / "model.onnx"
    with tempfile.TemporaryDirectory(prefix="leanloop-int8-") as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        prepare(source, prepared)
        quantization.quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=list(_OPERATORS),
            per_channel=config.per_channel,
            reduce_range=not instruction_sets() & {"avx512_vnni", "avx_vnni", "asimd"},
            weight_type=quantization.QuantType.QInt8,
        )
    if integer_share(target) == 0:
        raise TrialError("The model has no matrix product to quantise.", where=str(source))
    return onnx_model_files(target, "int8")


TECHNIQUES.register(OrtDynamicInt8Config.technique)(
    GraphTechnique(
        name=OrtDynamicInt8Config.technique,
        config=OrtDynamicInt8Config,
        target="onnxruntime",
        why_not=why_not,
        choices=choices,
        apply=quantise,
    )
)
