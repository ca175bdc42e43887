"""What the report and the terminal show of a run, taken from the contracts and put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from leanloop.core.contracts import (
    Benchmark,
    LatencyMeasurement,
    RecipeRecord,
    Release,
    Runtime,
    ServedMeasurement,
    VariantBenchmark,
    VariantVerdict,
    Verdict,
)
from leanloop.core.settings import Objective
from leanloop.select import formatting

RUNTIME_NAMES: dict[Runtime, str] = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

State = Literal["winner", "baseline", "passed", "refused"]


@dataclass(frozen=True)
class VariantView:
    """One row of the leaderboard, and one mark of the charts.

    Attributes:
        number: Its rank on the objective; charts name variants by it.
        state: What became of it.
        failed: Names of the checks that it failed.
        speedup: p50 latency of the original over its own, at the goal's batch size.
    """

    number: int
    measured: VariantBenchmark
    judged: VariantVerdict
    state: State
    failed: tuple[str, ...]
    latency: LatencyMeasurement
    speedup: float
    size_share: float
    metric_change: float

    @property
    def label(self) -> str:
        """The variant's name in words."""
        return self.measured.label

    @property
    def state_text(self) -> str:
        """What became of it, in words."""
        return f"fails {', '.join(self.failed)}" if self.state == "refused" else self.state


def variant_views(benchmark: Benchmark, verdict: Verdict) -> list[VariantView]:
    """All variants, the best on the objective first."""
    original = benchmark.original
    judged = {variant.id: variant for variant in verdict.variants}
    ranked = sorted(benchmark.variants, key=lambda variant: (judged[variant.id].objective, variant.id))
    return [
        VariantView(
            number=number,
            measured=variant,
            judged=judged[variant.id],
            state=_state(variant, judged[variant.id], verdict.winner),
            failed=tuple(check.name for check in judged[variant.id].checks if not check.passed),
            latency=variant.at(verdict.batch_size),
            speedup=original.at(verdict.batch_size).p50_ms.value / variant.at(verdict.batch_size).p50_ms.value,
            size_share=variant.size_bytes / benchmark.original_size_bytes,
            metric_change=variant.metric - original.metric,
        )
        for number, variant in enumerate(ranked, 1)
    ]


def winner_of(views: Sequence[VariantView]) -> VariantView | None:
    """The winner's row, if one won."""
    return next((view for view in views if view.state == "winner"), None)


def metric_limit(verdict: Verdict) -> float | None:
    """The worst metric that the goal allows; None when nothing was judged."""
    return next(
        (check.limit for variant in verdict.variants for check in variant.checks if check.name == "metric"), None
    )


def objective_of(verdict: Verdict) -> Objective:
    """What was minimised."""
    return cast(Objective, verdict.objective)


def _state(variant: VariantBenchmark, judged: VariantVerdict, winner: str | None) -> State:
    if variant.id == winner:
        return "winner"
    if variant.baseline:
        return "baseline"
    return "passed" if judged.feasible else "refused"


def recipe_parameters(recipe: RecipeRecord | None) -> str:
    """What tells candidates of the same techniques apart, such as ``channel_pruning ratio 0.5``."""
    if recipe is None:
        return ""
    told = []
    for config in recipe.techniques:
        values = [f"{key} {value}" for key, value in config.items() if key not in {"technique", "version"}]
        if values:
            told.append(f"{config['technique']}: {', '.join(values)}")
    return "; ".join(told)


@dataclass(frozen=True)
class Tile:
    """One large number of the headline."""

    value: str
    label: str
    note: str


def headline(benchmark: Benchmark, verdict: Verdict, winner: VariantView) -> tuple[str, str]:
    """What was won on the objective, and what came with it."""
    pace = f"{_pace(winner.speedup)} than in {RUNTIME_NAMES[benchmark.original.runtime]}"
    bytes_kept = f"at {formatting.percent(winner.size_share)} of its bytes"
    match objective_of(verdict):
        case "size":
            return f"{formatting.times(1 / winner.size_share)} smaller", f"and {pace}"
        case "cost":
            costs = {variant.id: variant.objective for variant in verdict.variants}
            return f"{formatting.times(costs[benchmark.original.id] / winner.judged.objective)} cheaper", bytes_kept
        case _:
            return _pace(winner.speedup), bytes_kept


def headline_tiles(benchmark: Benchmark, verdict: Verdict, winner: VariantView) -> list[Tile]:
    """Times faster, bytes, accuracy and memory of the winner."""
    original = benchmark.original
    faster = verdict.speedup[original.id]
    tiles = [
        Tile(
            formatting.times(faster.value),
            f"the speed of the original in {RUNTIME_NAMES[original.runtime]}",
            f"{formatting.interval(faster)} times; p50 {formatting.milliseconds(winner.latency.p50_ms.value)} against "
            f"{formatting.milliseconds(original.at(verdict.batch_size).p50_ms.value)} at batch {verdict.batch_size}",
        ),
        Tile(
            formatting.percent(winner.size_share),
            "of its bytes on disk",
            f"{formatting.size(winner.measured.size_bytes)} against {formatting.size(benchmark.original_size_bytes)}",
        ),
    ]
    name = benchmark.metric_name
    if verdict.test_samples and verdict.test_metric["original"]:
        before, after = verdict.test_metric["original"], verdict.test_metric["winner"]
        tiles.append(
            Tile(
                formatting.percent(after / before),
                f"of its test {name}",
                f"{formatting.metric(name, after)} against {formatting.metric(name, before)} on "
                f"{verdict.test_samples:,} samples, read once",
            )
        )
    tiles.append(
        Tile(
            formatting.size(winner.measured.peak_memory_bytes),
            "of memory to load and run",
            f"the original takes {formatting.size(original.peak_memory_bytes)}",
        )
    )
    return tiles


def _pace(speedup: float) -> str:
    return f"{formatting.times(speedup)} faster" if speedup >= 1 else f"{formatting.times(1 / speedup)} slower"


@dataclass(frozen=True)
class ServedRow:
    """One load: the original and the winner through Triton, and the released variant in-process beside them.

    Attributes:
        original: Version 1.
        released: The version that serves; None when the original serves.
        gain: Throughput of the released version over the original's; None without either.
        in_process_ms: p50 of the released variant in-process at this batch size; None when it was not measured.
    """

    batch_size: int
    concurrency: int
    original: ServedMeasurement | None
    released: ServedMeasurement | None
    gain: float | None
    in_process_ms: float | None


def served_rows(release: Release, benchmark: Benchmark) -> list[ServedRow]:
    """Served figures by load, beside the in-process ones."""
    found = {(row.batch_size, row.concurrency, row.version): row for row in release.served}
    rows = []
    for batch_size, concurrency in sorted({(row.batch_size, row.concurrency) for row in release.served}):
        original = found.get((batch_size, concurrency, 1))
        released = found.get((batch_size, concurrency, release.version)) if release.version != 1 else None
        in_process = [
            measured.p50_ms.value
            for variant in benchmark.variants
            if variant.id == release.artifact_id
            for measured in variant.latency
            if measured.batch_size == batch_size
        ]
        rows.append(
            ServedRow(
                batch_size=batch_size,
                concurrency=concurrency,
                original=original,
                released=released,
                gain=released.throughput / original.throughput if original and released else None,
                in_process_ms=in_process[0] if in_process else None,
            )
        )
    return rows
