"""What is measured: of the model's layers, of every variant in process, and of served versions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from leanloop.core.contracts.record import FileContract, Precision, Record, Runtime

# --- analyze --------------------------------------------------------------------------------------


class LayerCost(Record):
    """One layer's share of the whole model, at the goal's batch size."""

    name: str
    kind: str
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    time_ms: float
    output_shape: tuple[int, ...]


class LayerSensitivity(Record):
    """What happens to the metric when only this layer is treated."""

    name: str
    treatment: Literal["prune_50", "int8"]
    metric: float
    drop: float = Field(description="original metric minus this one, in the metric's units; positive is worse")


class OperatorCoverage(Record):
    """What a target can do with this model."""

    target: str
    supported: bool
    operators: int
    quantisable: int
    unsupported: tuple[str, ...]
    note: str


class Opportunity(Record):
    """One way to gain, with what it is expected to buy here, or why it cannot help."""

    technique: str
    helps: bool
    expected_speedup: float
    expected_size_ratio: float
    risk: Literal["low", "medium", "high"]
    reason: str


class Analysis(FileContract):
    """``analysis.json``."""

    filename: ClassVar[str] = "analysis.json"
    bundle_digest: str
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int = Field(description="peak of live activations, one sample")
    batch_size: int
    latency_ms: float = Field(description="eager or ONNX fp32 of the original, p50 at this batch size")
    metric_name: str
    metric: float
    layers: tuple[LayerCost, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    coverage: tuple[OperatorCoverage, ...]
    opportunities: tuple[Opportunity, ...] = Field(description="best first")
    hardware_id: str


# --- benchmark ------------------------------------------------------------------------------------


class Interval(Record):
    """A point estimate with a bootstrap confidence interval."""

    value: float
    low: float
    high: float


class LatencyMeasurement(Record):
    """One variant at one batch size: in-process compute time, one call at a time."""

    batch_size: int
    p50_ms: Interval
    p99_ms: Interval
    throughput: Interval = Field(description="samples per second, one after another")
    runs: int
    block_medians_ms: tuple[float, ...] = Field(description="one per block; blocks of all variants alternate")


class KernelTime(Record):
    """One kernel's share of all kernels' time in a call."""

    name: str
    kind: str
    implementation: str = Field(description="which code ran, with its instruction set where the runtime tells")
    share: float


class Execution(Record):
    """What really ran in one call at the goal's batch size, by the runtime's own account."""

    operators: int = Field(description="kernels that multiply with weights or states")
    int8_operators: int = Field(description="those of them that compute in INT8")
    kernel_ms: float = Field(description="all kernels of a call, under the profiler")
    conversion_share: float = Field(description="of that time, spent on quantising, dequantising and reordering")
    implementations: tuple[str, ...] = Field(description="of the operators that multiply")
    slowest: tuple[KernelTime, ...]
    why_not_faster: str = Field(description="one sentence")


class VariantBenchmark(Record):
    """All that was measured of one variant."""

    id: str
    label: str
    baseline: bool
    runtime: Runtime
    precision: Precision
    threads: int
    latency: tuple[LatencyMeasurement, ...]
    peak_memory_bytes: int = Field(description="resident memory that loading and running it added in a child process")
    size_bytes: int
    metric: float = Field(description="validation")
    metric_interval: Interval
    per_class: tuple[float, ...] = Field(description="accuracy per class on validation; empty when not applicable")
    execution: Execution | None = Field(None, description="None where the runtime does not tell")

    def at(self, batch_size: int) -> LatencyMeasurement:
        """The measurement at one batch size; KeyError when it was not taken."""
        for measurement in self.latency:
            if measurement.batch_size == batch_size:
                return measurement
        raise KeyError(batch_size)


class Benchmark(FileContract):
    """``benchmark.json``; ``predictions/<id>.npz`` holds each variant's outputs on validation."""

    filename: ClassVar[str] = "benchmark.json"
    bundle_digest: str
    metric_name: str
    higher_is_better: bool
    batch_sizes: tuple[int, ...]
    threads: int
    variants: tuple[VariantBenchmark, ...]
    original_size_bytes: int = Field(description="the owner's weights file")
    hardware: dict[str, Any]
    hardware_id: str
    notes: tuple[str, ...]

    def variant(self, variant_id: str) -> VariantBenchmark:
        """The measurements of one variant; KeyError when it was not measured."""
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        raise KeyError(variant_id)

    @property
    def original(self) -> VariantBenchmark:
        """The original in its own runtime: PyTorch, or ONNX Runtime when the owner brought an ONNX file."""
        baselines = {variant.runtime: variant for variant in self.variants if variant.baseline}
        return baselines["pytorch"] if "pytorch" in baselines else baselines["onnxruntime"]


# --- deploy ---------------------------------------------------------------------------------------


class ServedMeasurement(Record):
    """One version measured through Triton by clients."""

    version: int
    batch_size: int
    concurrency: int
    p50_ms: float
    p99_ms: float
    throughput: float = Field(description="samples per second")
    requests: int
