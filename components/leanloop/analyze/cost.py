"""What one layer costs, before it is timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leanloop.core.contracts import LayerCost


@dataclass(frozen=True)
class Cost:
    """One layer for one sample; see `leanloop.core.contracts.LayerCost`."""

    name: str
    kind: str
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    output_shape: tuple[int, ...]


def timed(costs: Sequence[Cost], times_ms: Mapping[str, float], latency_ms: float) -> tuple[LayerCost, ...]:
    """Join costs and times; the times are scaled so that they add up to the measured whole.

    Args:
        costs: In the order of execution, with distinct names.
        times_ms: By layer name; a layer that the runtime fused into another is absent and took no time of its own.
            A time under a name that no layer has becomes a row of its own: work that the runtime added.
        latency_ms: The whole model, measured without instruments.
    """
    scale = latency_ms / sum(times_ms.values())
    rows = [LayerCost(**vars(cost), time_ms=times_ms.get(cost.name, 0.0) * scale) for cost in costs]
    known = {cost.name for cost in costs}
    added = [
        LayerCost(
            name=name,
            kind="runtime",
            parameters=0,
            macs=0,
            weight_bytes=0,
            activation_bytes=0,
            time_ms=time * scale,
            output_shape=(),
        )
        for name, time in times_ms.items()
        if name not in known
    ]
    return (*rows, *added)
