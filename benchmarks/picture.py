"""A bar chart as an SVG file of its own: how many times faster each model is, at each batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leanloop.select.svg import element

WIDTH, NAMES, ROW, BAR, GAP = 860, 300, 46, 16, 3
COLOURS = ("#3b6ea5", "#8fb4d9")


def bars(p50_ms: Mapping[str, Mapping[str, Any]], reference: str, title: str) -> str:
    """A chart, the fastest model first.

    Args:
        p50_ms: By model and batch size, as a contest's record has it.
        reference: The model that is 1.
        title: Above it.
    """
    sizes = list(p50_ms[reference])
    faster = {
        name: [p50_ms[reference][size]["value"] / measured[size]["value"] for size in sizes]
        for name, measured in p50_ms.items()
    }
    order = sorted(faster, key=lambda name: -max(faster[name]))
    largest, height = max(map(max, faster.values())), 70 + ROW * len(order)
    parts = [element("text", title, x=12, y=24, font_size=16, font_weight="bold")]
    for number, size in enumerate(sizes):
        parts += [
            element("rect", x=12 + 110 * number, y=36, width=12, height=12, fill=COLOURS[number]),
            element("text", f"batch {size}", x=30 + 110 * number, y=47, font_size=13),
        ]
    for place, name in enumerate(order):
        top = 62 + ROW * place
        parts.append(element("text", name, x=NAMES - 8, y=top + BAR + 4, font_size=13, text_anchor="end"))
        for number, value in enumerate(faster[name]):
            y, length = top + number * (BAR + GAP), (WIDTH - NAMES - 70) * value / largest
            parts.append(element("rect", x=NAMES, y=y, width=length, height=BAR, fill=COLOURS[number]))
            parts.append(element("text", f"{value:.1f}x", x=NAMES + length + 6, y=y + 13, font_size=12))
    return (
        str(
            element(
                "svg",
                element("rect", width=WIDTH, height=height, fill="#ffffff"),
                *parts,
                xmlns="http://www.w3.org/2000/svg",
                viewBox=f"0 0 {WIDTH} {height}",
                font_family="sans-serif",
            )
        )
        + "\n"
    )
