"""An analysis as tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from leanloop.core.contracts import Analysis, LayerCost

_BAR_WIDTH = 16
_MOST_LAYERS = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"
_RISK_STYLE = {"low": "green", "medium": "yellow", "high": "red"}


def render(analysis: Analysis) -> RenderableType:
    """Tables of layers, targets and opportunities, for ``rich.print``."""
    return Group(_summary(analysis), "", _layers(analysis), "", _coverage(analysis), "", _opportunities(analysis))


def _summary(analysis: Analysis) -> Text:
    parts = (
        f"{analysis.parameters:,} parameters",
        f"{_count(analysis.macs)} MACs per sample",
        f"weights {_bytes(analysis.weight_bytes)}",
        f"activations {_bytes(analysis.activation_bytes)} at the peak",
        f"{analysis.latency_ms:.3g} ms at batch {analysis.batch_size}",
        f"{analysis.metric_name} {analysis.metric:.4f}",
    )
    return Text(" · ".join(parts), style="bold")


def _layers(analysis: Analysis) -> Table:
    table = Table(title="Layers, by time", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    table.add_column("kind")
    for heading in ("MACs", "weights", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("share", no_wrap=True)
    table.add_column("drop: int8", justify="right")
    table.add_column("drop: half pruned", justify="right")
    drops: dict[tuple[str, str], float] = {(found.name, found.treatment): found.drop for found in analysis.sensitivity}
    by_time = sorted(analysis.layers, key=lambda layer: -layer.time_ms)
    for layer in by_time[:_MOST_LAYERS]:
        table.add_row(*_layer_cells(layer, analysis.latency_ms), *_drop_cells(drops, layer.name))
    rest = by_time[_MOST_LAYERS:]
    if rest:
        time = sum(layer.time_ms for layer in rest)
        table.add_row(
            f"{len(rest)} more",
            "",
            _count(sum(layer.macs for layer in rest)),
            _bytes(sum(layer.weight_bytes for layer in rest)),
            f"{time:.3f} ms",
            _bar(time / analysis.latency_ms),
            style="dim",
        )
    return table


def _layer_cells(layer: LayerCost, latency_ms: float) -> tuple[str | Text, ...]:
    return (
        layer.name,
        layer.kind,
        _count(layer.macs) if layer.macs else "",
        _bytes(layer.weight_bytes) if layer.weight_bytes else "",
        f"{layer.time_ms:.3f} ms",
        _bar(layer.time_ms / latency_ms),
    )


def _drop_cells(drops: dict[tuple[str, str], float], name: str) -> tuple[str, str]:
    int8, pruned = (drops.get((name, treatment)) for treatment in ("int8", "prune_50"))
    return tuple("" if drop is None else f"{drop:+.3f}" for drop in (int8, pruned))  # type: ignore[return-value]


def _coverage(analysis: Analysis) -> Table:
    table = Table(title="Targets", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("target")
    table.add_column("runs it")
    table.add_column("operators", justify="right")
    table.add_column("INT8", justify="right")
    table.add_column("note", overflow="fold")
    for found in analysis.coverage:
        runs = Text("yes", "green") if found.supported else Text("no", "red")
        table.add_row(found.target, runs, str(found.operators), str(found.quantisable), found.note)
    return table


def _opportunities(analysis: Analysis) -> Table:
    table = Table(title="Opportunities, best first", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("technique", no_wrap=True)
    table.add_column("faster", justify="right")
    table.add_column("size", justify="right")
    table.add_column("risk")
    table.add_column("why", overflow="fold")
    for found in analysis.opportunities:
        if found.helps:
            risk = Text(found.risk, _RISK_STYLE[found.risk])
            gain = (f"{found.expected_speedup:.1f}x", f"{found.expected_size_ratio:.0%}", risk)
        else:
            gain = ("no", "", Text(""))
        table.add_row(found.technique, *gain, found.reason, style="" if found.helps else "dim")
    return table


def _bar(share: float) -> Text:
    eighths = round(share * _BAR_WIDTH * 8)
    bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    return Text(f"{share:4.0%} ").append(bar, style="cyan")


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
