"""How much faster kernels get: the few measured numbers that expectations are made of.

Each is a ratio of whole-model latencies in one runtime, taken as the factor of the kernels that the treatment
reaches; nothing else in a model gets faster by it (Amdahl's law).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Factor:
    """A treatment's speed-up of the kernels that it reaches, against fp32 in the same runtime.

    Attributes:
        by_batch: Batch size -> factor.
        source: Where it was measured.
    """

    by_batch: dict[int, float]
    source: str

    def at(self, batch_size: int) -> float:
        """The factor at the nearest measured batch size, by ratio."""
        return self.by_batch[min(self.by_batch, key=lambda known: abs(math.log(known / batch_size)))]


_RESNET = "residual network of width 32 on Fashion-MNIST, Xeon with AMX, one thread"
_BERT = "BERT-base on MRPC, Xeon 8480+: Intel Neural Compressor's validated models"

FACTORS: dict[tuple[str, str], Factor] = {
    ("ort_static_int8", "Conv"): Factor({1: 2.2, 8: 2.4, 32: 2.6}, _RESNET),
    ("ort_static_int8", "MatMul"): Factor({1: 1.76}, _BERT),
    ("ort_dynamic_int8", "MatMul"): Factor({1: 2.13}, _BERT),
    ("nncf_int8", "Conv"): Factor({1: 2.2, 8: 4.1, 32: 5.6}, _RESNET),
    ("nncf_int8", "MatMul"): Factor({1: 2.2, 8: 4.1, 32: 5.6}, _RESNET),
    ("openvino_bf16", "Conv"): Factor({1: 2.2, 8: 3.6, 32: 7.1}, _RESNET),
    ("openvino_bf16", "MatMul"): Factor({1: 2.2, 8: 3.6, 32: 7.1}, _RESNET),
    ("channel_pruning", "Conv"): Factor({1: 1.8, 8: 1.7, 32: 1.7}, _RESNET),
    ("channel_pruning", "MatMul"): Factor({1: 1.8, 8: 1.7, 32: 1.7}, _RESNET),
    ("distillation", "Conv"): Factor({1: 3.6, 32: 3.7}, _RESNET),
    ("distillation", "MatMul"): Factor({1: 3.6, 32: 3.7}, _RESNET),
}
"""By technique and kind of kernel. Channel pruning is by half, distillation into a third of the width."""

SIZE_RATIO = {"int8": 0.25, "bf16": 0.5, "fp16": 0.5, "channel_pruning": 0.33, "distillation": 0.12}
"""Weight bytes after and before: by arithmetic for number formats, as measured on the same network for the others."""

INT8_CHANNELS = 16
"""Products with fewer rows or columns than a tile has (16 in AMX) gain nothing from INT8."""
