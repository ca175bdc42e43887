"""bfloat16 in OpenVINO: fp32's range with 8 bits of mantissa, on the CPU's bf16 matrix units.

A number keeps its sign, all 8 bits of exponent and 7 of mantissa, with a hidden one before them: what is left of fp32
without its lower half::

    x = (-1)^s * 2^(e - 127) * (1 + m / 2^7)         a relative error of at most 2^-8, and nothing overflows

Products are summed in fp32. Shapes stay as they are; weights are stored in 16 bits, half the bytes. No data are needed,
and accuracy hardly moves, so this is the first thing to try on a CPU with AMX.

Source: OpenVINO documentation, "Precision Control".
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


@dataclass(frozen=True)
class OpenVinoBf16Config(Config):
    """Nothing to choose."""

    technique: ClassVar[str] = "openvino_bf16"


def why_not(bundle: Bundle) -> str | None:
    """Needs the OpenVINO extra and a CPU that computes in bf16."""
    if not instruction_sets() & {"amx_bf16", "avx512_bf16"}:
        return "this CPU has no bf16 instructions (amx_bf16 or avx512_bf16)"
    return TARGETS["openvino"].can_convert()


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[OpenVinoBf16Config]:
    """The one there is."""
    return [OpenVinoBf16Config()]


def convert(source: Path, folder: Path, config: OpenVinoBf16Config, workshop: Workshop) -> ModelFiles:
    """Convert an fp32 ONNX file to an IR that runs in bf16."""
    return openvino_model_files(source, folder, "bf16")


TECHNIQUES.register(OpenVinoBf16Config.technique)(
    GraphTechnique(
        name=OpenVinoBf16Config.technique,
        config=OpenVinoBf16Config,
        target="openvino",
        why_not=why_not,
        choices=choices,
        apply=convert,
        integer=False,
    )
)
