"""What the owner brings: packing it, and opening the pack.

`pack` makes a bundle folder; `Bundle` opens one and gives model, data and metric. PyTorch, which takes seconds to
import, is imported when the first module is built or called: steps that only read files and numbers start at once.
"""

from __future__ import annotations

from leanloop.bundle.bundle import Bundle
from leanloop.bundle.data import SPLITS, Arrays, Split, SplitName, tensors
from leanloop.bundle.likeness import Likeness
from leanloop.bundle.metrics import Metric, classes_of, correct, make_metric
from leanloop.bundle.pack import pack, seal
from leanloop.bundle.view import View

__all__ = [
    "SPLITS",
    "Arrays",
    "Bundle",
    "Likeness",
    "Metric",
    "Split",
    "SplitName",
    "View",
    "classes_of",
    "correct",
    "make_metric",
    "pack",
    "seal",
    "tensors",
]
