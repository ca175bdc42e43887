"""Small tools to draw charts as inline SVG: escaped elements, scales and their ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """An SVG or HTML element; children that are not `Markup` and all attributes are escaped.

    Attribute names may end in ``_`` (``class_``) and hold ``_`` for ``-``; an attribute of None is left out.
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _number(value))
        for name, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), given, Markup("").join(escape(child) for child in children))


def chart(width: float, height: float, description: str, *children: str) -> Markup:
    """A chart that fills the width it gets; ``description`` is what a screen reader says of it."""
    return element(
        "svg",
        *children,
        class_="chart",
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        role="img",
        aria_label=description,
    )


def text(x: float, y: float, content: str, class_: str = "label", anchor: str = "start") -> Markup:
    """A text whose baseline starts, ends or is centred at a point."""
    return element("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


class Labels:
    """Names of circles, each put where it covers no earlier one: above, below, to the right, or to the left.

    Args:
        width: Of the chart, which no name leaves.
    """

    _LETTER, _HEIGHT = 7.0, 15.0

    def __init__(self, width: float) -> None:
        self._width = width
        self._boxes: list[tuple[float, float, float, float]] = []

    def beside(self, x: float, y: float, radius: float, name: str) -> Markup:
        """The name of the circle at a point; above it when every place is taken."""
        half = len(name) * self._LETTER / 2
        places = [
            (x, y - radius - 9),
            (x, y + radius + 18),
            (x + radius + 8 + half, y + 4),
            (x - radius - 8 - half, y + 4),
        ]
        centre, baseline = next((place for place in places if self._free(self._box(*place, half))), places[0])
        self._boxes.append(self._box(centre, baseline, half))
        return text(centre, baseline, name, "name", "middle")

    def _box(self, centre: float, baseline: float, half: float) -> tuple[float, float, float, float]:
        return centre - half, baseline - self._HEIGHT, centre + half, baseline

    def _free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = box
        inside = left >= 0 and right <= self._width
        return inside and not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in self._boxes
        )


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low..high`` to pixels ``start..stop``, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values within the scale, about ``count`` of them."""
        if self.logarithmic:
            return self._logarithmic_ticks(count)
        rough = (self.high - self.low) / count
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]

    def _logarithmic_ticks(self, count: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3)):
            ticks = [factor * 10.0**decade for decade in decades for factor in factors]
            within = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(within) <= count + 2:
                return within
        return [10.0**decade for decade in decades if self.low <= 10.0**decade <= self.high]


def spanning(
    values: Sequence[float], start: float, stop: float, *, margin: float, linear: bool = False, least: float = 0.0
) -> Scale:
    """A scale that shows all values with room around them; logarithmic when they span more than a factor of five.

    Args:
        values: What must be seen.
        start: Pixel of the low end.
        stop: Pixel of the high end.
        margin: Room on each side, as a share of the span.
        linear: Never logarithmic.
        least: The smallest span, so that values close to each other look close.
    """
    low, high = min(values), max(values)
    if not linear and low > 0 and high / low > 5:
        room = (high / low) ** margin
        return Scale(low / room, high * room, start, stop, logarithmic=True)
    least = least or (abs(high) * 0.1 or 1.0 if high == low else 0.0)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    room = (high - low) * margin
    return Scale(low - room, high + room, start, stop)


def _number(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
