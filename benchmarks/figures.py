"""The bars, and what was measured against them."""

from __future__ import annotations

import operator
import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

EAGER = "original-pytorch-fp32"


@dataclass(frozen=True)
class Figure:
    """One line: a value and its bar, or a value alone."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ok(self) -> bool:
        above = self.at_least is None or operator.ge(self.value, self.at_least)
        return above and (self.at_most is None or operator.le(self.value, self.at_most))

    def __str__(self) -> str:
        if self.at_least is None and self.at_most is None:
            return f"{self.name:<66} {self.value:9.2f} {self.unit}"
        bar = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{self.name:<66} {self.value:9.2f} {self.unit:<10} {bar:>9}  {'ok' if self.ok else 'MISS'}"


@dataclass(frozen=True)
class Remark:
    """A line without a figure: what was not there to be measured, and why."""

    text: str
    ok: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.text


Line = Figure | Remark


def judge(
    batch_1: dict[str, Any],
    batch_32: dict[str, Any],
    digits: dict[str, Any],
    variants: dict[str, Any],
    again: dict[str, Any],
    cli: dict[str, Any],
) -> list[Figure]:
    """All figures, in the order of the promises."""
    latency = variants["p50_ms"]
    lines = []
    for run, name, size, bar in ((batch_1, "winner-batch-1", "1", 10.0), (batch_32, "winner-batch-32", "32", 12.0)):
        faster = latency[EAGER][size] / latency[name][size]
        lines.append(Figure(f"goal batch {size}: times faster than PyTorch eager fp32", faster, "x", at_least=bar))
        share = 100 * variants["size_bytes"][name] / variants["original_size_bytes"]
        lines.append(Figure(f"goal batch {size}: share of the original's bytes", share, "%", at_most=12.0))
        metric = run["verdict"]["test_metric"]
        kept = 100 * metric["winner"] / metric["original"]
        lines.append(Figure(f"goal batch {size}: share of the original's test accuracy", kept, "%", at_least=99.0))
    plain = min(latency[name]["1"] for name in latency if name.startswith("plain-"))
    over_plain = plain / latency["winner-batch-1"]["1"]
    lines.append(Figure("batch 1: times faster than the best plain INT8", over_plain, "x", at_least=1.5))
    lines.append(
        Figure("Triton, batch 32, 1 client: throughput over version 1", gain(batch_32, 32, 1), "x", at_least=3.0)
    )
    lines.append(Figure("Triton, batch 1, 8 clients: throughput over version 1 (goal 1)", gain(batch_1, 1, 8), "x"))
    lines.append(Figure("Triton, batch 1, 8 clients: throughput over version 1 (goal 32)", gain(batch_32, 1, 8), "x"))
    lines.append(Figure("make demo-optimize from a warm set-up", batch_1["seconds"] / 60, "min", at_most=12.0))
    lines.append(Figure("  of which orchestration", 100 * batch_1["orchestration_share"], "%", at_most=5.0))
    lines.append(Figure("digits: whole line", digits["seconds"] / 60, "min", at_most=2.0))
    lines.append(Figure("leanloop --help, median", statistics.median(cli["seconds"]), "s", at_most=0.5))
    for name, share in again["difference_percent"].items():
        lines.append(Figure(f"independent: {name}", share, "% apart", at_most=15.0))
    return lines


def gain(run: dict[str, Any], batch_size: int, concurrency: int) -> float:
    """Throughput of the released version over version 1's, both through the same Triton in alternating blocks."""
    rows = {
        row["version"]: row["throughput"]
        for row in run["release"]["served"]
        if (row["batch_size"], row["concurrency"]) == (batch_size, concurrency)
    }
    return float(rows[run["release"]["version"]] / rows[1])
