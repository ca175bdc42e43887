"""A pruner that compares the channels of a whole network, and keeps widths that vectors fit.

Torch-Pruning rounds what stays of a layer down: a layer of 32 that is to lose one channel would lose 16 where counts
are multiples of 16. Here the nearest width is kept; what a round leaves over is asked for again in the next one. And
the most important tenth of a layer takes no part in the comparison, so that no layer is emptied.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch_pruning

from leanloop.optimize.techniques.channel_groups import nearest


class WholeNetworkPruner(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
    """As Torch-Pruning's, but for how widths are rounded, and what always stays.

    Args:
        *arguments: Torch-Pruning's.
        **named: Torch-Pruning's.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._widths: dict[Any, int] = {}
        super().__init__(*arguments, global_pruning=True, **named)

    def estimate_importance(self, group: Any) -> torch.Tensor | None:
        """Of a group's channels; infinite for those that stay in any case."""
        importance: torch.Tensor | None = super().estimate_importance(group)
        if importance is None:
            return None
        width = self._widths.setdefault(group[0].dep.target.module, len(importance))
        stay = min(len(importance), math.ceil((1 - self.max_pruning_ratio) * width))
        importance[importance.topk(stay).indices] = math.inf
        return importance

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        return current_channels - nearest(current_channels, current_channels - n_pruned, round_to)
