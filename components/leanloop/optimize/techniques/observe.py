"""What the layers of a network take and give, seen while it runs once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def observe(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    layers: Mapping[str, nn.Module],
    note: Callable[[str, tuple[Any, ...], Any], None],
) -> None:
    """Run a network once and note every call of some layers, in order.

    Args:
        module: The network.
        inputs: Its inputs.
        layers: Of the network, by any names.
        note: ``(name, inputs, result)``.
    """
    hooks = [
        layer.register_forward_hook(lambda _, given, result, name=name: note(name, given, result))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
