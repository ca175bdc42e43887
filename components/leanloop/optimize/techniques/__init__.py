"""The techniques, one file each; each registers itself in `TECHNIQUES`."""

from __future__ import annotations

from leanloop.optimize.techniques import (
    channel_pruning,
    distillation,
    nncf_int8,
    openvino_bf16,
    ort_dynamic_int8,
    ort_static_int8,
    resume,
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
    "channel_pruning",
    "check",
    "distillation",
    "nncf_int8",
    "openvino_bf16",
    "ort_dynamic_int8",
    "ort_static_int8",
    "read_config",
    "resume",
]
