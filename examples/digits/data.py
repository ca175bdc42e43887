"""The 1,797 handwritten digits that come with scikit-learn, in the four splits that leanloop asks for.

From E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset

SIZES = {"train": 1_100, "calibration": 100, "validation": 250, "test": 347}


def load(split: str, root: Path) -> TensorDataset:
    """One split as (image, label) pairs: float32 [1, 8, 8] in [0, 1], and an int64 digit.

    Every split holds the ten digits in equal shares.

    Args:
        split: ``train``, ``calibration``, ``validation`` or ``test``.
        root: Not used.
    """
    if split not in SIZES:
        raise ValueError(f"split {split!r} is not one of {', '.join(SIZES)}")
    images, labels = load_digits(return_X_y=True)
    remaining = np.arange(len(labels))
    for name, size in SIZES.items():
        chosen = remaining
        if size < len(remaining):
            chosen, remaining = train_test_split(remaining, train_size=size, stratify=labels[remaining], random_state=0)
        if name == split:
            break
    pixels = torch.tensor(images[chosen], dtype=torch.float32).div_(16).reshape(-1, 1, 8, 8)
    return TensorDataset(pixels, torch.tensor(labels[chosen], dtype=torch.int64))
