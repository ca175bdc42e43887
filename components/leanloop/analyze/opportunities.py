"""What each technique could buy on this model and this machine, and which cannot help, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leanloop.analyze.factors import FACTORS, INT8_CHANNELS, SIZE_RATIO
from leanloop.core.contracts import LayerSensitivity, Opportunity

Risk = Literal["low", "medium", "high"]

NOTICEABLE = 1.05
"""A smaller gain is within the noise of a measurement."""

_INT8_ISA = {"avx512_vnni", "avx_vnni", "amx_int8", "asimd"}
_BF16_ISA = {"amx_bf16", "avx512_bf16"}
_FP16_ISA = {"avx512_fp16", "asimdhp"}
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_FAMILIES = {"Conv": "Conv", "Gemm": "MatMul", "MatMul": "MatMul"}
_FEW_SAMPLES = 1000
_NOT_RECOVERED = 0.1
"""Assumed share of a pruned layer's loss that fine-tuning does not bring back."""


@dataclass(frozen=True)
class Kernel:
    """One node of the exported model that has fp32 weights, as ONNX Runtime runs it.

    Attributes:
        kind: ``Conv``, ``Gemm`` or ``MatMul``.
        share: Of the whole model's time that a faster kernel could save; a node's fixed overhead is not in it.
        weight_bytes: Of its fp32 weights.
        channels: Of its output.
        reduction: Products that each output element sums.
        prunable: Whether channels can be taken out.
    """

    kind: str
    share: float
    weight_bytes: int
    channels: int
    reduction: int
    prunable: bool

    @property
    def family(self) -> str:
        """Its row in `leanloop.analyze.factors.FACTORS`."""
        return _FAMILIES[self.kind]


@dataclass(frozen=True)
class Evidence:
    """What expectations are made from.

    Attributes:
        batch_size: The goal's.
        original_ms: Latency of the original in its own runtime.
        fp32_ms: Latency of the exported original, by target.
        blocked: Why a target cannot be used, by target; absent where it can.
        kernels: Nodes with weights.
        weight_bytes: Of the whole model.
        sensitivity: What was measured per layer.
        allowed_drop: Of the metric, in its units.
        untrainable: Why the architecture cannot be changed and fine-tuned; empty when it can.
        training_samples: How many there are.
        instruction_sets: Of this CPU.
    """

    batch_size: int
    original_ms: float
    fp32_ms: Mapping[str, float]
    blocked: Mapping[str, str]
    kernels: Sequence[Kernel]
    weight_bytes: int
    sensitivity: Sequence[LayerSensitivity]
    allowed_drop: float
    untrainable: str
    training_samples: int
    instruction_sets: Collection[str]

    def gain(self, technique: str, kernels: Sequence[Kernel]) -> float:
        """Speed-up of the whole when these kernels get a technique's factors (Amdahl's law)."""
        saved = sum(
            kernel.share * (1 - 1 / FACTORS[technique, kernel.family].at(self.batch_size)) for kernel in kernels
        )
        return 1 / (1 - saved)

    def size_ratio(self, name: str, kernels: Sequence[Kernel]) -> float:
        """Weight bytes after and before, when these kernels' weights shrink."""
        shrunk = sum(kernel.weight_bytes for kernel in kernels)
        return 1 - (1 - SIZE_RATIO[name]) * shrunk / max(self.weight_bytes, 1)

    def drops(self, treatment: str) -> dict[str, float]:
        """Drop of the metric by layer."""
        return {found.name: found.drop for found in self.sensitivity if found.treatment == treatment}


def opportunities(evidence: Evidence, *, minimise_size: bool) -> tuple[Opportunity, ...]:
    """Techniques by registered name, best first: those that help by expected speed-up (or size), then the others.

    Techniques whose gain does not follow from factors measured on other networks are not judged: what else gets INT8
    (accuracy-aware, after quantisation-aware training) gains at most what plain INT8 does, feature distillation wins
    accuracy for other techniques, blocks and students are the owner's, and `resume` and `blending` are for repairs.
    """
    found = [opportunity(evidence) for opportunity in _OPPORTUNITIES]

    def order(item: Opportunity) -> tuple[bool, float, float]:
        speed, size = -item.expected_speedup, item.expected_size_ratio
        return (not item.helps, *((size, speed) if minimise_size else (speed, size)))

    return tuple(sorted(found, key=order))


def _static_int8(evidence: Evidence) -> Opportunity:
    return _int8(evidence, "ort_static_int8", "onnxruntime")


def _nncf_int8(evidence: Evidence) -> Opportunity:
    return _int8(evidence, "nncf_int8", "openvino")


def _int8(evidence: Evidence, technique: str, target: str) -> Opportunity:
    if target in evidence.blocked:
        return _no(technique, evidence.blocked[target])
    fitting = _wide(evidence.kernels)
    if not fitting:
        return _no(technique, f"No fp32 layer is at least {INT8_CHANNELS} channels wide; narrower ones do not gain.")
    gain = evidence.gain(technique, fitting) if _INT8_ISA & set(evidence.instruction_sets) else 1.0
    drops = evidence.drops("int8")
    risk = _risk(sum(drops.values()), evidence.allowed_drop)
    speed = (
        f"{_reached(fitting)} in layers with INT8 kernels"
        if gain > 1
        else "this CPU has no VNNI, AMX or SIMD dot product: smaller, not faster"
    )
    return Opportunity(
        technique=technique,
        helps=True,
        expected_speedup=_speedup(evidence, target, gain),
        expected_size_ratio=evidence.size_ratio("int8", fitting),
        risk=risk,
        reason=f"{_runtime_gain(evidence, target)}; {speed}. {_most_sensitive(drops)}",
    )


def _dynamic_int8(evidence: Evidence) -> Opportunity:
    technique, target = "ort_dynamic_int8", "onnxruntime"
    if target in evidence.blocked:
        return _no(technique, evidence.blocked[target])
    fitting = [kernel for kernel in _wide(evidence.kernels) if kernel.family == "MatMul"]
    gain = evidence.gain(technique, fitting)
    if not _INT8_ISA & set(evidence.instruction_sets):
        gain = 1.0
    ratio = evidence.size_ratio("int8", fitting)
    if gain < NOTICEABLE and ratio > 1 / NOTICEABLE:
        convolutions = sum(kernel.share for kernel in evidence.kernels if kernel.family == "Conv")
        return _no(
            technique,
            f"It only speeds up matrix products, {_share(fitting)} of the time here; {convolutions:.0%} is in "
            "convolutions, which dynamic quantisation makes slower (ConvInteger).",
        )
    return Opportunity(
        technique=technique,
        helps=True,
        expected_speedup=_speedup(evidence, target, gain),
        expected_size_ratio=ratio,
        risk=_risk(sum(evidence.drops("int8").values()), evidence.allowed_drop),
        reason=f"{_runtime_gain(evidence, target)}; {_reached(fitting)} in matrix products. Needs no calibration.",
    )


def _bf16(evidence: Evidence) -> Opportunity:
    technique, target = "openvino_bf16", "openvino"
    if target in evidence.blocked:
        return _no(technique, evidence.blocked[target])
    if not _BF16_ISA & set(evidence.instruction_sets):
        return _no(technique, "This CPU has neither AMX-BF16 nor AVX512-BF16: it would run in fp32.")
    return Opportunity(
        technique=technique,
        helps=True,
        expected_speedup=_speedup(evidence, target, evidence.gain(technique, evidence.kernels)),
        expected_size_ratio=evidence.size_ratio("bf16", evidence.kernels),
        risk="low",
        reason=f"{_runtime_gain(evidence, target)}; {_reached(evidence.kernels)} in layers with bf16 kernels, which "
        "keep fp32's range.",
    )


def _fp16(evidence: Evidence) -> Opportunity:
    technique, target = "openvino_fp16", "openvino"
    if target in evidence.blocked:
        return _no(technique, evidence.blocked[target])
    if not _FP16_ISA & set(evidence.instruction_sets):
        return _no(technique, "This CPU has neither AVX512-FP16 nor Arm's: it would run in bf16 or fp32.")
    return Opportunity(
        technique=technique,
        helps=True,
        expected_speedup=_speedup(evidence, target, 1.0),
        expected_size_ratio=evidence.size_ratio("fp16", evidence.kernels),
        risk="low",
        reason=f"{_runtime_gain(evidence, target)}; half of the bytes. What fp16 saves in time was not measured on "
        "other networks, so nothing is expected of it.",
    )


def _channel_pruning(evidence: Evidence) -> Opportunity:
    technique = "channel_pruning"
    prunable = [kernel for kernel in evidence.kernels if kernel.prunable]
    obstacle = _training_obstacle(evidence, prunable)
    if obstacle:
        return _no(technique, obstacle)
    drops = evidence.drops("prune_50")
    mean = sum(drops.values()) / len(drops) if drops else 0.0
    target = _fastest(evidence)
    return Opportunity(
        technique=technique,
        helps=True,
        expected_speedup=_speedup(evidence, target, evidence.gain(technique, prunable)),
        expected_size_ratio=evidence.size_ratio(technique, prunable),
        risk=_risk(mean * _NOT_RECOVERED, evidence.allowed_drop),
        reason=f"Half the channels: {_reached(prunable)} in layers that can be pruned; "
        f"{_runtime_gain(evidence, target)}. {_most_sensitive(drops)}",
    )


def _distillation(evidence: Evidence) -> Opportunity:
    technique = "distillation"
    prunable = [kernel for kernel in evidence.kernels if kernel.prunable]
    obstacle = _training_obstacle(evidence, prunable)
    if obstacle:
        return _no(technique, obstacle)
    target = _fastest(evidence)
    few = evidence.training_samples < _FEW_SAMPLES
    return Opportunity(
        technique=technique,
        helps=True,
        expected_speedup=_speedup(evidence, target, evidence.gain(technique, prunable)),
        expected_size_ratio=evidence.size_ratio(technique, prunable),
        risk="high" if few else "medium",
        reason="With the original as teacher a third of the width can do; "
        f"{_runtime_gain(evidence, target)}; {evidence.training_samples} training samples"
        f"{' are few' if few else ''}.",
    )


def _unstructured_pruning(evidence: Evidence) -> Opportunity:
    return _no(
        "unstructured_pruning",
        "Zeros here and there save no time on a CPU: neither runtime has sparse convolution kernels.",
    )


def _two_of_four(evidence: Evidence) -> Opportunity:
    return _no("semi_structured_pruning", "Only NVIDIA GPUs since Ampere run 2:4 sparsity faster; this is a CPU.")


_OPPORTUNITIES: tuple[Callable[[Evidence], Opportunity], ...] = (
    _static_int8,
    _nncf_int8,
    _dynamic_int8,
    _bf16,
    _fp16,
    _channel_pruning,
    _distillation,
    _unstructured_pruning,
    _two_of_four,
)


def _no(technique: str, reason: str) -> Opportunity:
    return Opportunity(
        technique=technique, helps=False, expected_speedup=1.0, expected_size_ratio=1.0, risk="low", reason=reason
    )


def _wide(kernels: Sequence[Kernel]) -> list[Kernel]:
    return [kernel for kernel in kernels if min(kernel.channels, kernel.reduction) >= INT8_CHANNELS]


def _training_obstacle(evidence: Evidence, prunable: Sequence[Kernel]) -> str:
    if evidence.untrainable:
        return evidence.untrainable
    if not evidence.fp32_ms:
        return " ".join(evidence.blocked.values())
    return "" if prunable else "No layer's channels can be taken out."


def _fastest(evidence: Evidence) -> str:
    return min(evidence.fp32_ms, key=lambda target: evidence.fp32_ms[target])


def _speedup(evidence: Evidence, target: str, gain: float) -> float:
    return evidence.original_ms / evidence.fp32_ms[target] * gain


def _runtime_gain(evidence: Evidence, target: str) -> str:
    ratio = evidence.original_ms / evidence.fp32_ms[target]
    return f"{_RUNTIMES[target]} alone takes {evidence.fp32_ms[target]:.3g} ms in fp32, {ratio:.1f}x the speed"


def _share(kernels: Sequence[Kernel]) -> str:
    return f"{sum(kernel.share for kernel in kernels):.0%}"


def _reached(kernels: Sequence[Kernel]) -> str:
    return f"{_share(kernels)} of the time is"


def _most_sensitive(drops: Mapping[str, float]) -> str:
    if not drops:
        return "No layer's sensitivity was measured."
    worst = max(drops, key=lambda name: drops[name])
    if drops[worst] <= 0:
        return "No layer is sensitive to it."
    return f"Most sensitive is {worst} ({drops[worst]:.3g} of the metric)."


def _risk(drop: float, allowed: float) -> Risk:
    if drop <= allowed:
        return "low"
    return "medium" if drop <= 3 * allowed else "high"
