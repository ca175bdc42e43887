"""Constructed benchmarks: small numbers chosen so that the right verdict is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from leanloop.bundle import make_metric
from leanloop.core.contracts import (
    Benchmark,
    Execution,
    Interval,
    LatencyMeasurement,
    Precision,
    Runtime,
    VariantBenchmark,
)
from leanloop.select.gate import Evidence

CLASSES = ("t-shirt", "trouser", "pullover", "dress")


@dataclass(frozen=True)
class Spec:
    """One variant of a constructed benchmark."""

    id: str
    latency_ms: float
    size_bytes: int = 100_000
    wrong: Sequence[int] = ()
    baseline: bool = False
    runtime: Runtime = "onnxruntime"
    precision: Precision = "int8"
    memory_bytes: int = 10_000_000
    noise: float = 0.01
    label: str = ""


@dataclass(frozen=True)
class Case:
    """A benchmark and its evidence on a validation split of `samples` samples, classes in turn."""

    specs: Sequence[Spec]
    samples: int = 400
    baselines: Sequence[Spec] = field(
        default=(
            Spec("original-pytorch-fp32", 3.0, 1_250_000, baseline=True, runtime="pytorch", precision="fp32"),
            Spec("original-onnxruntime-fp32", 1.0, 1_260_000, baseline=True, precision="fp32"),
        )
    )

    classes: tuple[str, ...] = CLASSES

    @property
    def labels(self) -> np.ndarray:
        """The right class per sample."""
        return np.arange(self.samples) % len(self.classes)

    def outputs(self, spec: Spec) -> np.ndarray:
        """Logits that are right everywhere but on the samples of ``spec.wrong``."""
        answers = self.labels.copy()
        answers[list(spec.wrong)] = (answers[list(spec.wrong)] + 1) % len(self.classes)
        return np.eye(len(self.classes), dtype=np.float32)[answers]

    def variant(self, spec: Spec, row: int) -> VariantBenchmark:
        """The measurements of one variant."""
        right = self.outputs(spec).argmax(1) == self.labels
        share = float(right.mean())
        return VariantBenchmark(
            id=spec.id,
            label=spec.label or spec.id,
            baseline=spec.baseline,
            runtime=spec.runtime,
            precision=spec.precision,
            threads=1,
            latency=(measure(spec.latency_ms, 1, row, spec.noise), measure(20 * spec.latency_ms, 32, row, spec.noise)),
            peak_memory_bytes=spec.memory_bytes,
            size_bytes=spec.size_bytes,
            metric=share,
            metric_interval=Interval(value=share, low=share - 0.02, high=min(share + 0.02, 1.0)),
            per_class=tuple(float(right[self.labels == index].mean()) for index in range(len(self.classes))),
            execution=None
            if spec.baseline
            else Execution(
                operators=9,
                int8_operators=8,
                kernel_ms=spec.latency_ms,
                conversion_share=0.125,
                implementations=("brgconv_avx512_I8",),
                slowest=(),
                why_not_faster=f"In {spec.id} one operator does not run in INT8.",
            ),
        )

    def benchmark(self, **changes: Any) -> Benchmark:
        """All variants, baselines first."""
        return Benchmark(
            bundle_digest="b" * 64,
            metric_name="accuracy",
            higher_is_better=True,
            batch_sizes=(1, 32),
            threads=1,
            variants=tuple(self.variant(spec, row) for row, spec in enumerate((*self.baselines, *self.specs))),
            original_size_bytes=1_250_000,
            hardware={"cpu": "Constructed CPU", "isa": ["avx2", "amx_int8"], "cores": 2, "tools": {"torch": "2.13.0"}},
            hardware_id="0123456789abcdef",
            notes=("Constructed: no clock was read.",),
        ).model_copy(update=changes)

    def evidence(self) -> Evidence:
        """What every variant answered."""
        return Evidence(
            metric=make_metric("accuracy", "classification"),
            truth=self.labels,
            outputs={spec.id: self.outputs(spec) for spec in (*self.baselines, *self.specs)},
            classification=True,
            classes=self.classes,
        )


def measure(p50_ms: float, batch_size: int, row: int, noise: float) -> LatencyMeasurement:
    """A latency with twelve block medians around it; ``noise`` is their relative standard deviation."""
    generator = np.random.default_rng([row, batch_size])
    spread = generator.standard_normal(12)
    blocks = p50_ms * np.exp(noise * (spread - np.median(spread)))
    return LatencyMeasurement(
        batch_size=batch_size,
        p50_ms=Interval(value=p50_ms, low=p50_ms * (1 - noise), high=p50_ms * (1 + noise)),
        p99_ms=Interval(value=1.3 * p50_ms, low=1.25 * p50_ms, high=1.4 * p50_ms),
        throughput=Interval(
            value=1000 * batch_size / p50_ms, low=990 * batch_size / p50_ms, high=1010 * batch_size / p50_ms
        ),
        runs=1000,
        block_medians_ms=tuple(blocks.tolist()),
    )
