"""Fashion-MNIST (Xiao et al., 2017) in the four splits that leanloop asks for.

Of the 60,000 training images 1,000 are held out for calibration and 5,000 for validation, by one seeded
permutation; the 10,000 test images are the publisher's own.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import TensorDataset

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

MEAN, STD = 0.2860, 0.3530
"""Of the training images' pixels, scaled to [0, 1]."""

_HELD_OUT = {"calibration": slice(0, 1_000), "validation": slice(1_000, 6_000), "train": slice(6_000, 60_000)}


def load(split: str, root: Path) -> TensorDataset:
    """One split as (image, label) pairs: float32 [1, 28, 28], normalised, and an int64 class index.

    Args:
        split: ``train`` (54,000), ``calibration`` (1,000), ``validation`` (5,000) or ``test`` (10,000).
        root: The folder that holds the four ``*-ubyte.gz`` files.
    """
    if split != "test" and split not in _HELD_OUT:
        raise ValueError(f"split {split!r} is not one of train, calibration, validation, test")
    prefix = "t10k" if split == "test" else "train"
    pixels = _read_idx(root / f"{prefix}-images-idx3-ubyte.gz", header_bytes=16).reshape(-1, 1, 28, 28)
    labels = _read_idx(root / f"{prefix}-labels-idx1-ubyte.gz", header_bytes=8)
    if split != "test":
        chosen = np.random.default_rng(0).permutation(len(labels))[_HELD_OUT[split]]
        pixels, labels = pixels[chosen], labels[chosen]
    images = torch.tensor(pixels, dtype=torch.float32).div_(255).sub_(MEAN).div_(STD)
    return TensorDataset(images, torch.tensor(labels, dtype=torch.int64))


def _read_idx(file: Path, header_bytes: int) -> npt.NDArray[np.uint8]:
    with gzip.open(file) as stream:
        return np.frombuffer(stream.read(), dtype=np.uint8, offset=header_bytes)
