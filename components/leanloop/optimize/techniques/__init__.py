"""The techniques, one file each; each registers itself in `TECHNIQUES`.

An installed package adds its own by an entry point of the group `GROUP`, whose module registers them: so every process
of a run knows them.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from leanloop.core.errors import SettingsError
from leanloop.optimize.techniques import (
    blending,
    block_removal,
    channel_pruning,
    distillation,
    feature_distillation,
    nncf_accuracy_aware_int8,
    nncf_int8,
    openvino_bf16,
    openvino_fp16,
    ort_accuracy_aware_int8,
    ort_dynamic_int8,
    ort_static_int8,
    quantisation_aware_training,
    resume,
    semi_structured_pruning,
    student,
    unstructured_pruning,
)
from leanloop.optimize.techniques.base import (
    TECHNIQUES,
    Applied,
    Config,
    GraphTechnique,
    Technique,
    TorchTechnique,
    Workshop,
    check,
    fine_tuning,
    read_config,
    reshaping,
)
from leanloop.optimize.techniques.findings import Findings

__all__ = [
    "TECHNIQUES",
    "Applied",
    "Config",
    "Findings",
    "GraphTechnique",
    "Technique",
    "TorchTechnique",
    "Workshop",
    "blending",
    "block_removal",
    "channel_pruning",
    "check",
    "distillation",
    "feature_distillation",
    "fine_tuning",
    "nncf_accuracy_aware_int8",
    "nncf_int8",
    "openvino_bf16",
    "openvino_fp16",
    "ort_accuracy_aware_int8",
    "ort_dynamic_int8",
    "ort_static_int8",
    "quantisation_aware_training",
    "read_config",
    "reshaping",
    "resume",
    "semi_structured_pruning",
    "student",
    "unstructured_pruning",
]


GROUP = "leanloop.techniques"


def load_installed() -> None:
    """Import what installed packages add; called when all of `leanloop.optimize` is there for them to import.

    Raises:
        SettingsError: A package's module cannot be imported.
    """
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            raise SettingsError(
                "A package that adds techniques cannot be imported.",
                where=f"entry point {point.name} = {point.value}",
                value=f"{type(error).__name__}: {error}",
                fix=f"Correct or uninstall {point.dist.name if point.dist else 'the package'}.",
            ) from error
