"""How right a variant is on a split, in the owner's metric."""

from __future__ import annotations

import numpy as np

from leanloop.bundle import Arrays, Bundle, Split, correct


def targets_of(bundle: Bundle, split: Split, reference: Arrays | None) -> np.ndarray:
    """What the metric compares with: labels, or the original's first output for a metric without labels."""
    if bundle.metric.needs_labels:
        assert split.targets is not None  # packing refuses a validation split without the labels that the metric needs
        return split.targets
    assert reference is not None
    return reference[bundle.manifest.outputs[0]]


def per_class_accuracy(outputs: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
    """Share of each class's samples that are classified rightly, by class index; 1 for a class without samples."""
    right = correct(outputs, targets)
    classes = outputs.shape[-1] if outputs.ndim > 1 and outputs.shape[-1] > 1 else 2
    members = np.bincount(targets, minlength=classes)
    hits = np.bincount(targets, weights=right, minlength=classes)
    return tuple(float(hit / count) if count else 1.0 for hit, count in zip(hits, members, strict=True))
