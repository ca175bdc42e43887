"""The digits as a thousand random features each, for models that are nothing but matrix products.

``cos(w x + b)`` with normal ``w`` and uniform ``b`` makes a linear model on the features nearly as able as a kernel
machine on the pixels: Rahimi and Recht, "Random Features for Large-Scale Kernel Machines" (2007).
"""

from __future__ import annotations

import math
from pathlib import Path

import data
import torch
from torch.utils.data import TensorDataset

FEATURES, SCALE = 1_000, 0.5
"""How many, and the spread of ``w``: pixels are in [0, 1]."""


def load(split: str, root: Path) -> TensorDataset:
    """One split as (features, label) pairs: float32 [1000], and an int64 digit.

    Args:
        split: As `data.load` has it.
        root: Not used.
    """
    images, labels = data.load(split, root).tensors
    pixels = images.flatten(1)
    draw = torch.Generator().manual_seed(0)
    directions = SCALE * torch.randn(pixels.shape[1], FEATURES, generator=draw)
    phases = 2 * math.pi * torch.rand(FEATURES, generator=draw)
    return TensorDataset(torch.cos(pixels @ directions + phases), labels)
