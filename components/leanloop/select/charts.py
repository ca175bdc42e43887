"""The report's charts: inline SVG that takes its colours from the page, so that light and dark both fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from leanloop.core.settings import Objective
from leanloop.select import formatting
from leanloop.select.svg import Labels, Scale, chart, element, line, spanning, text
from leanloop.select.view import RUNTIME_NAMES, VariantView, winner_of

_RADII = (8.0, 27.0)


def pareto_chart(
    variants: Sequence[VariantView],
    objective: Objective,
    metric: str,
    metric_limit: float | None,
    *,
    higher_is_better: bool,
) -> Markup:
    """The objective against the metric, with the size as area.

    Args:
        variants: In the order of the leaderboard, which numbers them.
        objective: What was minimised.
        metric: The metric's name.
        metric_limit: The worst metric that the goal allows; None leaves its line out.
        higher_is_better: The metric's direction.
    """
    width, height, left, right, top, bottom = 1000.0, 440.0, 84.0, 24.0, 40.0, 60.0
    name = formatting.OBJECTIVE_NAMES[objective]
    x = spanning([variant.judged.objective for variant in variants], left, width - right, margin=0.1)
    shown = [variant.measured.metric for variant in variants] + ([] if metric_limit is None else [metric_limit])
    y = spanning(shown, height - bottom, top, margin=0.18, linear=True)
    ticks = [formatting.metric_tick(metric, tick) for tick in y.ticks(5)]
    parts = [
        *_columns(x, top, height - bottom, lambda tick: formatting.objective_tick(objective, tick), below=True),
        *(line(left, y(tick), width - right, y(tick), "grid") for tick in y.ticks(5)),
        *(text(left - 12, y(tick) + 4, label, "tick", "end") for tick, label in zip(y.ticks(5), ticks, strict=True)),
        text(left - 12, top - 18, f"{metric} on validation", "axis"),
        text((left + width - right) / 2, height - 12, f"{name} (lower is better)", "axis", "middle"),
    ]
    if metric_limit is not None:
        edge = height - bottom if higher_is_better else top
        upper, lower = sorted((y(metric_limit), edge))
        parts += [
            element("rect", x=left, y=upper, width=width - right - left, height=lower - upper, class_="forbidden"),
            line(left, y(metric_limit), width - right, y(metric_limit), "limit"),
            text(
                width - right - 8,
                y(metric_limit) + (16 if higher_is_better else -8),
                f"the goal allows {formatting.metric(metric, metric_limit)}",
                "limit-label",
                "end",
            ),
        ]
    parts.append(_front(variants, x, y, higher_is_better=higher_is_better))
    largest = max(variant.measured.size_bytes for variant in variants)
    names = Labels(width)
    # Large circles first, so that none hides a smaller one.
    for variant in sorted(variants, key=lambda variant: (-variant.measured.size_bytes, variant.number)):
        radius = max(_RADII[0], _RADII[1] * math.sqrt(variant.measured.size_bytes / largest))
        parts.append(_mark(variant, x(variant.judged.objective), y(variant.measured.metric), radius, names))
    winner = winner_of(variants)
    told = f"the winner is number {winner.number}, {winner.label}" if winner else "no variant won"
    return chart(width, height, f"{name} against {metric} of {len(variants)} variants; {told}.", *parts)


def latency_chart(variants: Sequence[VariantView], batch_size: int) -> Markup:
    """Block medians of every variant at one batch size: each block a dot, the middle half a bar, the median a tick."""
    width, left, right, top, row = 560.0, 34.0, 78.0, 34.0, 30.0
    bottom = top + row * len(variants)
    measurements = [variant.measured.at(batch_size) for variant in variants]
    x = spanning(
        [block for found in measurements for block in found.block_medians_ms], left, width - right, margin=0.04
    )
    parts = _columns(x, top - 8, bottom, lambda tick: f"{tick:g} ms", ticks=5)
    for index, (variant, found) in enumerate(zip(variants, measurements, strict=True)):
        middle = top + row * (index + 0.5)
        low, median, high = (x(float(value)) for value in np.quantile(found.block_medians_ms, (0.25, 0.5, 0.75)))
        dots = [
            element("circle", cx=x(block), cy=middle + 3.5 * (number % 3 - 1), r=2.6, class_="block")
            for number, block in enumerate(found.block_medians_ms)
        ]
        tip = (
            f"{variant.number}. {variant.label}\np50 {formatting.milliseconds(found.p50_ms.value)} "
            f"({formatting.interval(found.p50_ms)})\np99 {formatting.milliseconds(found.p99_ms.value)}\n"
            f"{formatting.rate(found.throughput.value)}, {found.runs:,} runs"
        )
        parts += [
            text(left - 12, middle + 4, str(variant.number), "number", "end"),
            element(
                "g",
                element("rect", x=left, y=middle - row / 2, width=width - left, height=row, class_="hover"),
                *dots,
                element("rect", x=low, y=middle - 8, width=max(high - low, 1.0), height=16, rx=3, class_="box"),
                line(median, middle - 9, median, middle + 9, "median"),
                text(width, middle + 4, formatting.milliseconds(found.p50_ms.value), "value", "end"),
                class_=f"variant {variant.state}",
                data_tip=tip,
                tabindex=0,
                role="img",
                aria_label=tip,
            ),
        ]
    return chart(
        width, bottom + 8, f"p50 latency of each block at batch size {batch_size}, one row per variant.", *parts
    )


def class_chart(names: Sequence[str], original: Sequence[float], winner: Sequence[float]) -> Markup:
    """Accuracy per class: the original as a ring, the winner as a disc, a line for the change."""
    width, left, right, top, row = 1000.0, 150.0, 70.0, 34.0, 27.0
    bottom = top + row * len(names)
    x = spanning([*original, *winner], left, width - right, margin=0.05, linear=True, least=0.1)
    parts = _columns(x, top - 8, bottom, lambda tick: formatting.metric_tick("accuracy", tick), ticks=5)
    for index, (name, before, after) in enumerate(zip(names, original, winner, strict=True)):
        middle = top + row * (index + 0.5)
        tip = (
            f"{name}\noriginal {formatting.metric('accuracy', before)}\nwinner {formatting.metric('accuracy', after)}\n"
            f"{formatting.metric_change('accuracy', after - before)}"
        )
        shown = name if len(name) <= 20 else f"{name[:19]}…"
        parts += [
            text(left - 14, middle + 4, shown, "label", "end"),
            element(
                "g",
                element("rect", x=left, y=middle - row / 2, width=width - left, height=row, class_="hover"),
                line(x(before), middle, x(after), middle, "change fall" if after < before else "change rise"),
                element("circle", cx=x(before), cy=middle, r=5.5, class_="ring"),
                element("circle", cx=x(after), cy=middle, r=5.5, class_="disc"),
                text(width, middle + 4, f"{100 * (after - before):+.1f}".replace("-", "−"), "value", "end"),
                data_tip=tip,
                tabindex=0,
                role="img",
                aria_label=tip,
            ),
        ]
    return chart(width, bottom + 8, "Accuracy per class on validation, original and winner.", *parts)


def _columns(
    x: Scale, top: float, bottom: float, words: Callable[[float], str], *, ticks: int = 7, below: bool = False
) -> list[Markup]:
    labels_at = bottom + 20 if below else top - 8
    return [
        *(line(x(tick), top, x(tick), bottom, "grid") for tick in x.ticks(ticks)),
        *(text(x(tick), labels_at, words(tick), "tick", "middle") for tick in x.ticks(ticks)),
    ]


def _front(variants: Sequence[VariantView], x: Scale, y: Scale, *, higher_is_better: bool) -> Markup:
    """The step line below which nothing was found: the best metric so far as the objective rises."""
    sign = 1 if higher_is_better else -1
    best, path = -math.inf, ""
    for variant in sorted(variants, key=lambda variant: (variant.judged.objective, -sign * variant.measured.metric)):
        if sign * variant.measured.metric > best:
            best = sign * variant.measured.metric
            at = f"{x(variant.judged.objective):.1f}"
            path += f"H{at}V{y(variant.measured.metric):.1f}" if path else f"M{at} {y(variant.measured.metric):.1f}"
    return element("path", d=path, class_="front")


def _mark(variant: VariantView, x: float, y: float, radius: float, placed: Labels) -> Markup:
    tip = (
        f"{variant.number}. {variant.label}\n{variant.state_text}\n"
        f"{formatting.times(variant.speedup)} the original's speed\n"
        f"metric {variant.measured.metric:.4g}\n{formatting.size(variant.measured.size_bytes)}, "
        f"{formatting.size(variant.measured.peak_memory_bytes)} of memory"
    )
    halo = [element("circle", cx=x, cy=y, r=radius + 5, class_="halo")] if variant.state == "winner" else []
    names = {"winner": "winner", "baseline": RUNTIME_NAMES[variant.measured.runtime]}
    name = names.get(variant.state)
    return element(
        "g",
        *halo,
        element("circle", cx=x, cy=y, r=radius, class_="bubble"),
        text(x, y + 4, str(variant.number), "number", "middle"),
        *([placed.beside(x, y, radius, name)] if name else []),
        class_=f"variant {variant.state}",
        data_tip=tip,
        tabindex=0,
        role="img",
        aria_label=tip,
    )
