"""The techniques, one file each; each registers itself in `TECHNIQUES`."""

from __future__ import annotations

from leanloop.optimize.techniques import (
    block_removal,
    channel_pruning,
    distillation,
    feature_distillation,
    nncf_int8,
    openvino_bf16,
    ort_accuracy_aware_int8,
    ort_dynamic_int8,
    ort_static_int8,
    resume,
    semi_structured_pruning,
    unstructured_pruning,
)
from leanloop.optimize.techniques.base import (
    TECHNIQUES,
    Config,
    GraphTechnique,
    Technique,
    TorchTechnique,
    Workshop,
    check,
    read_config,
)

__all__ = [
    "TECHNIQUES",
    "Config",
    "GraphTechnique",
    "Technique",
    "TorchTechnique",
    "Workshop",
    "block_removal",
    "channel_pruning",
    "check",
    "distillation",
    "feature_distillation",
    "nncf_int8",
    "openvino_bf16",
    "ort_accuracy_aware_int8",
    "ort_dynamic_int8",
    "ort_static_int8",
    "read_config",
    "resume",
    "semi_structured_pruning",
    "unstructured_pruning",
]
