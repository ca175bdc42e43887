"""How often is looked, and how durations are written for Prometheus."""

from __future__ import annotations

from leanloop.core.settings import SloSettings

SHORTEST_WINDOW_SECONDS = 300.0
"""Of all alerting windows, before `SloSettings.window_scale`."""

LOOKS_PER_WINDOW = 4
"""No window is shorter than so many scrapes."""

_USUAL_SECONDS = 5.0
_SHORTEST_SECONDS = 1.0


def scrape_seconds(slo: SloSettings) -> float:
    """Between two scrapes, and between two evaluations of the rules: 5 s, less where the windows are scaled down."""
    wanted = SHORTEST_WINDOW_SECONDS * slo.window_scale / LOOKS_PER_WINDOW
    return max(min(wanted, _USUAL_SECONDS), _SHORTEST_SECONDS)


def duration(seconds: float) -> str:
    """A duration as Prometheus and Alertmanager read it.

    >>> duration(300), duration(3.75)
    ('300s', '3750ms')
    """
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
