"""The Pareto front: what no other variant beats in everything at once."""

from __future__ import annotations

from collections.abc import Sequence


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether ``first`` is nowhere worse than ``second`` and somewhere better; lower is better on every axis."""
    pairs = list(zip(first, second, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def pareto_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other point dominates.

    Args:
        costs: One row per point, one cost per axis; lower is better on every axis.

    Returns:
        One flag per point, in the order given. Equal points share their fate.
    """
    return [not any(dominates(other, point) for other in costs) for point in costs]
