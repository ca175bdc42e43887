"""Static INT8 for ONNX Runtime: weights and activations in 8 bits, activation ranges measured beforehand.

A tensor ``x`` becomes ``q = clip(round(x / scale) + zero_point)``. Weights [out, in, ...]: signed, symmetric (zero
point 0), one scale per tensor or per output channel [out]. Activations: unsigned, one scale and zero point per tensor,
from the ranges seen on the calibration split. The graph is written with QuantizeLinear/DequantizeLinear pairs, which
ONNX Runtime fuses into integer kernels.

Why U8 activations with S8 weights, though the API's defaults are S8 with S8: on x86 only this pair reaches the VNNI
and AMX kernels, and signed activations of residual graphs fall back to fp32 between the pairs. Without VNNI the sum
of two products can overflow 16 bits, so weights are kept to 7 bits there (``reduce_range``).

What is added to the scores of an attention stays in float: one scale for scores around 1 and a mask of -10,000 leaves
nothing of the scores (a sentence encoder's vectors: cosine 0.38 to those of before, 0.82 with masks in float).

Source: ONNX Runtime, documentation of ``quantize_static``; Nagel et al., "A White Paper on Neural Network
Quantization", 2021.
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import onnx

from leanloop.bundle import Bundle, Split
from leanloop.convert import onnx_model_files
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import TrialError
from leanloop.core.events import emit
from leanloop.core.hardware import instruction_sets
from leanloop.optimize.techniques.base import TECHNIQUES, Config, GraphTechnique, Workshop, check
from leanloop.runtime.profile.onnxruntime import FLOAT_COMPUTE, INT8_COMPUTE

_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
"""As settings name them, and as ONNX Runtime does."""

_CHUNK = 32
_DRAFT_SAMPLES = 32
OPERATORS = ("Conv", "MatMul", "Gemm", "Add")


@dataclass(frozen=True)
class OrtStaticInt8Config(Config):
    """How ranges are found, and how fine the weights' scales are.

    Attributes:
        per_channel: One scale per output channel instead of one per weight tensor.
        calibration: ``minmax``; ``percentile`` (99.999 %, ignores outliers); ``entropy`` (the range whose 8-bit
            histogram differs least from the true one, by Kullback-Leibler divergence).
        samples: Of the calibration split, at most.
    """

    technique: ClassVar[str] = "ort_static_int8"
    per_channel: bool = True
    calibration: str = "minmax"
    samples: int = 512

    def __post_init__(self) -> None:
        check(isinstance(self.per_channel, bool), self, "per_channel", "true or false")
        check(self.calibration in _METHODS, self, "calibration", ", ".join(_METHODS))
        check(self.samples >= 1, self, "samples", "at least 1")


def why_not(bundle: Bundle) -> str | None:
    """Every bundle has a calibration split, and the runtime comes with leanloop."""
    return None


def choices(bundle: Bundle, budget_minutes: float) -> Sequence[OrtStaticInt8Config]:
    """Per channel first; the others trade accuracy in other ways."""
    return [
        OrtStaticInt8Config(),
        OrtStaticInt8Config(calibration="percentile"),
        OrtStaticInt8Config(calibration="entropy"),
        OrtStaticInt8Config(per_channel=False),
    ]


def quantise(source: Path, folder: Path, config: OrtStaticInt8Config, workshop: Workshop) -> ModelFiles:
    """Quantise an fp32 ONNX file.

    Raises:
        TrialError: No heavy operator came out as an integer kernel.
    """
    target = folder / "model.onnx"
    with tempfile.TemporaryDirectory(prefix="leanloop-int8-") as scratch:
        Calibrated.measure(source, config, workshop, Path(scratch)).write(target)
    share = integer_share(target)
    emit("int8_coverage", technique=config.technique, share=round(share, 3))
    if share == 0:
        raise TrialError("No operator runs in INT8.", where=str(source), fix="Leave this technique out.")
    return onnx_model_files(target, "int8")


def prepare(source: Path, target: Path) -> None:
    """Write an fp32 ONNX file with shapes and ONNX Runtime's own basic optimisations.

    Without its symbolic shapes, which ONNX's own suffice for: ONNX Runtime 1.31 gives up where an Expand's shape is
    computed, as behind a norm of embeddings. The exporter also notes shapes of weights, which its quantiser turns round
    without their notes, and then stumbles over.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    model = onnx.load(target)
    weights = {tensor.name for tensor in model.graph.initializer}
    noted = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(noted)
    onnx.save(model, target)


@dataclass(frozen=True)
class Calibrated:
    """An fp32 ONNX file that is ready to be quantised, in as many ways as one likes.

    Attributes:
        prepared: The file, with shapes and ONNX Runtime's own basic optimisations.
        ranges: Of its activations, as JSON.
        config: How they were found.
    """

    prepared: Path
    ranges: Path
    config: OrtStaticInt8Config

    @cached_property
    def masked(self) -> list[str]:
        """Names of the sums that a softmax reads."""
        nodes = onnx.load(self.prepared).graph.node
        read = {name for node in nodes if node.op_type == "Softmax" for name in node.input}
        return [node.name for node in nodes if node.op_type == "Add" and not read.isdisjoint(node.output)]

    @classmethod
    def measure(cls, source: Path, config: OrtStaticInt8Config, workshop: Workshop, scratch: Path) -> Self:
        """Measure the ranges on the calibration split; both files are written into a folder."""
        split = workshop.bundle.split("calibration").take(slice(0, config.samples))
        found = cls(scratch / "prepared.onnx", scratch / "ranges.json", config)
        prepare(source, found.prepared)
        measure_ranges(found.prepared, found.ranges, split, config.calibration, scratch)
        return found

    def write(self, target: Path, left_in_float: Sequence[str] = ()) -> None:
        """Write the quantised file.

        Args:
            target: Where to.
            left_in_float: Names of nodes that are not quantised.
        """
        from onnxruntime import quantization

        arm = platform.machine() in ("aarch64", "arm64")
        quantization.quantize_static(
            str(self.prepared),
            str(target),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=[*left_in_float, *self.masked],
            per_channel=self.config.per_channel,
            reduce_range=not arm and not instruction_sets() & {"avx512_vnni", "avx_vnni"},
            activation_type=quantization.QuantType.QInt8 if arm else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=_method(self.config.calibration),
            calibration_cache_path=self.ranges,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": arm},
        )


def measure_ranges(model: Path, ranges: Path, split: Split, calibration: str, scratch: Path) -> None:
    """Run the samples through the fp32 model in small chunks, and write the merged range of each activation as JSON.

    ONNX Runtime's own chunking (``CalibMaxIntermediateOutputs``, 1.31) forgets all chunks but the last, and without
    chunks histograms keep every activation of every sample in memory. Handing the calibrator one chunk at a time merges
    rightly and keeps one chunk.
    """
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One chunk."""

        def __init__(self, chunk: Split) -> None:
            self._left: Iterator[Any] = iter([chunk.inputs])

        def get_next(self) -> Any:
            return next(self._left, None)

    calibrator = create_calibrator(
        model,
        list(OPERATORS),
        augmented_model_path=str(scratch / "augmented.onnx"),
        calibrate_method=_method(calibration),
        extra_options={"symmetric": False},
    )
    for chunk in split.batches(_CHUNK):
        calibrator.collect_data(Reader(chunk))
    save_tensors_data(calibrator.compute_data(), ranges)


def integer_share(model: Path) -> float:
    """Share of convolutions, matrix products, recurrent layers and attention that ONNX Runtime runs on integers.

    Counted in the graph as it is after ONNX Runtime's own optimisations.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="leanloop-coverage-") as scratch:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = f"{scratch}/optimised.onnx"
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        counts = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    integer, floats = (sum(counts[kind] for kind in kinds) for kinds in (INT8_COMPUTE, FLOAT_COMPUTE))
    return integer / (integer + floats) if integer + floats else 0.0


def _method(calibration: str) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    return getattr(CalibrationMethod, _METHODS[calibration])


TECHNIQUES.register(OrtStaticInt8Config.technique)(
    GraphTechnique(
        name=OrtStaticInt8Config.technique,
        config=OrtStaticInt8Config,
        target="onnxruntime",
        why_not=why_not,
        choices=choices,
        apply=quantise,
        draft=lambda config: replace(config, samples=_DRAFT_SAMPLES),
    )
)
