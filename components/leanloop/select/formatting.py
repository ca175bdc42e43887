"""Numbers as people read them: one place for the report, the terminal and the gate's notes."""

from __future__ import annotations

from leanloop.core.contracts import Interval, VariantBenchmark
from leanloop.core.settings import Objective

OBJECTIVE_NAMES: dict[Objective, str] = {
    "latency_p50": "p50 latency",
    "latency_p99": "p99 latency",
    "size": "size",
    "cost": "cost per million inferences",
}
"""Objectives in words."""

_COMPARATIVES: dict[Objective, tuple[str, str]] = {
    "latency_p50": ("faster", "slower"),
    "latency_p99": ("faster at p99", "slower at p99"),
    "size": ("smaller", "larger"),
    "cost": ("cheaper", "dearer"),
}

_SHARES = {"accuracy", "f1", "agreement"}


def number(value: float) -> str:
    """Three significant digits, such as ``11.3``; no decimals from a hundred on."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:,.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if magnitude >= 1 else f"{value:#.3g}" if value else "0"


def milliseconds(value: float) -> str:
    """A latency with three significant digits, such as ``0.312 ms``."""
    return f"{number(value)} ms"


def size(value: float) -> str:
    """Bytes in binary units, such as ``108 KiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:,.0f} bytes" if unit == "bytes" else f"{number(value)} {unit}"
        value /= 1024
    return f"{number(value)} GiB"


def exact_bytes(value: float) -> str:
    """Every byte, where a limit is at stake, such as ``110,592 bytes``."""
    return f"{value:,.0f} bytes"


def times(value: float) -> str:
    """A ratio, such as ``11.3×``."""
    return f"{number(value)}×"


def interval(value: Interval) -> str:
    """The two ends of an interval, such as ``11.0 to 11.6``."""
    return f"{number(value.low)} to {number(value.high)}"


def comparison(objective_name: Objective, ratio: Interval) -> str:
    """An improvement in words, such as ``1.35 times faster (1.31 to 1.40)``; below 1 it is turned round."""
    better, worse = _COMPARATIVES[objective_name]
    if ratio.value >= 1:
        return f"{number(ratio.value)} times {better} ({interval(ratio)})"
    turned = Interval(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)
    return f"{number(turned.value)} times {worse} ({interval(turned)})"


def variant_name(variant: VariantBenchmark) -> str:
    """A variant in a sentence: candidates of one recipe differ by their parameters, so the id is told too."""
    return variant.label if variant.baseline else f"{variant.label} [{variant.id[:8]}]"


def metric(name: str, value: float) -> str:
    """A metric: shares in percent, other metrics with four significant digits."""
    return f"{100 * value:.2f} %" if name in _SHARES else f"{value:.4g}"


def metric_change(name: str, value: float) -> str:
    """A signed difference of a metric: shares in percentage points."""
    change = f"{100 * value:+.2f} points" if name in _SHARES else f"{value:+.3g}"
    return change.replace("-", "−")


def percent(share: float) -> str:
    """A share, such as ``8.8 %``."""
    return f"{100 * share:.1f} %" if share < 1 else f"{100 * share:.0f} %"


def rate(value: float) -> str:
    """Samples per second, such as ``3,210 /s``."""
    return f"{value:,.0f} /s" if value >= 100 else f"{value:.3g} /s"


def seconds(value: float) -> str:
    """A duration, such as ``4 min 05 s``."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def count(value: float) -> str:
    """A large count, such as ``0.31 million``."""
    return f"{value / 1e6:.2f} million" if value >= 1e5 else f"{value:,.0f}"


def objective_tick(name: Objective, value: float) -> str:
    """A round value of the objective for an axis, without needless zeros."""
    return size(value) if name == "size" else f"{value:g}" if name == "cost" else f"{value:g} ms"


def metric_tick(name: str, value: float) -> str:
    """A round value of a metric for an axis, without needless zeros."""
    return f"{100 * value:.6g} %" if name in _SHARES else f"{value:.6g}"


def objective(name: Objective, value: float) -> str:
    """The objective's value with its unit."""
    match name:
        case "size":
            return size(value)
        case "cost":
            return f"{value:.3g}"
        case _:
            return milliseconds(value)
