"""fp16 in OpenVINO: 11 bits of mantissa, in a range that ends at 65,504, on CPUs that compute in it.

A number keeps its sign, 5 bits of exponent and 10 of mantissa, with a hidden one before them::

    x = (-1)^s * 2^(e - 15) * (1 + m / 2^10)         fp32: 8 and 23 bits; bf16: 8 and 7

So rounding costs an eighth of what it costs in bf16 (a relative error of at most 2^-11, not 2^-8), but an activation
above 65,504 becomes infinite, and parity refuses a file that answers so. Shapes stay as they are; weights are stored in
16 bits, half the bytes. No data are needed.

OpenVINO takes ``f16`` where the CPU has AVX512-FP16 (Xeon since the fourth generation) or Arm's half precision. Where
it has not, OpenVINO would run in bf16 or fp32 without a word, so the technique is left out. Some client CPUs compute in
it, too (AVX2 with VNNI-2); these are not looked for. ONNX Runtime has no such variant: on x86 its CPU provider puts
casts to fp32 around Conv, Gemm and MatMul (seen with 1.31.1).

Source: OpenVINO documentation, "CPU Device" (supported precisions) and "Precision Control"; its CPU plugin's
``precision_support.cpp``; onnxruntime issues 11831 and 16778; IEEE 754-2008, binary16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from leanloop.bundle import Bundle
from leanloop.convert import TARGETS, openvino_model_files
from leanloop.core.contracts import ModelFiles
from leanloop.core.hardware import instruction_sets
from leanloop.optimize.techniques.base import TECHNIQUES, Config, GraphTechnique, Workshop

FP16_SETS = {"avx512_fp16", "asimdhp"}
"""What computes in fp16: of x86 and of Arm, as the system names them."""


@dataclass(frozen=True)
class OpenVinoFp16Config(Config):
    """Nothing to choose."""

    technique: ClassVar[str] = "openvino_fp16"


def why_not(bundle: Bundle) -> str | None:
    """Needs the OpenVINO extra and a CPU that computes in fp16."""
    if not instruction_sets() & FP16_SETS:
        return "this CPU has no fp16 instructions (avx512_fp16, or asimdhp on Arm)"
    return TARGETS["openvino"].can_convert()


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[OpenVinoFp16Config]:
    """The one there is."""
    return [OpenVinoFp16Config()]


def convert(source: Path, folder: Path, config: OpenVinoFp16Config, workshop: Workshop) -> ModelFiles:
    """Convert an fp32 ONNX file to an IR that runs in fp16."""
    return openvino_model_files(source, folder, "fp16")


TECHNIQUES.register(OpenVinoFp16Config.technique)(
    GraphTechnique(
        name=OpenVinoFp16Config.technique,
        config=OpenVinoFp16Config,
        target="openvino",
        why_not=why_not,
        choices=choices,
        apply=convert,
        integer=False,
    )
)
