"""Networks of all kinds and every technique that makes a target's files: they answer as before, or it says why not.

The kinds come in the other order than in ``test_kinds.py``, so that two processes do not wait for the same one.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import TrialError
from leanloop.core.hardware import instruction_sets
from leanloop.optimize import TECHNIQUES, Config, GraphTechnique, Recipe, Workshop
from leanloop.optimize.apply import make_files
from leanloop.optimize.techniques import nncf_int8
from leanloop.runtime import answers_of, kept_original_outputs
from tests.optimize.workshops import KINDS, Workshops

QUANTISING = [name for name in TECHNIQUES if isinstance(TECHNIQUES[name], GraphTechnique)]

SHORT = {
    "openvino_bf16": ({"amx_bf16", "avx512_bf16"}, "this CPU has no bf16 instructions"),
    "openvino_fp16": ({"avx512_fp16", "asimdhp"}, "this CPU has no fp16 instructions"),
}
"""Technique -> instruction sets of which it needs one, and how the reason begins without."""

LEFT_ALONE = {
    (kind, name): reason for kind in KINDS for name, (sets, reason) in SHORT.items() if not sets & instruction_sets()
}
"""Kind and technique -> how the reason begins with which it makes no files."""

LEAST_COSINE = {
    ("vision_transformer", "ort_static_int8"): 0.9,
    ("vision_transformer", "ort_accuracy_aware_int8"): 0.9,
    ("text_encoder", "ort_static_int8"): 0.7,
    ("text_encoder", "ort_accuracy_aware_int8"): 0.7,
    ("residual_cnn", "nncf_int8"): 0.98,
    ("residual_cnn", "nncf_accuracy_aware_int8"): 0.98,
}
"""Transformers: one scale per tensor for the sums of branches, with their outliers, which SmoothQuant is about.
The residual CNN: the quick bias correction."""

QUICKER: dict[str, Any] = {"samples": 32, "ranked_samples": 20, "max_drop": 0.05, "bias_correction": "fast"}
"""What of a config makes it quick."""

OF_TEXT: dict[str, Any] = {"smooth": True, "max_drop": 0.5}
"""The text encoder as a transformer, and none of its layers given back: to rank them takes minutes."""


@pytest.mark.parametrize("name", QUANTISING)
@pytest.mark.parametrize("kind", KINDS[::-1])
def test_files_answer_as_before_or_are_not_made_for_a_known_reason(
    kind: str, name: str, workshops: Workshops, tmp_path: Path
) -> None:
    workshop, expected = workshops.of(kind), LEFT_ALONE.get((kind, name), "")
    technique, split = TECHNIQUES[name], workshop.bundle.split("validation")
    assert isinstance(technique, GraphTechnique)
    model = _files(technique, workshop, tmp_path)
    if isinstance(model, str):
        assert expected, model
        assert model.startswith(expected)
        return
    assert not expected, "it makes files now"
    assert model.runtime == technique.target
    assert model.precision != "fp32"
    answers = answers_of(model, tmp_path, split, threads=1)
    original = kept_original_outputs(workshop.bundle, split, workshop.store)
    assert answers.keys() == original.keys()
    for output, values in answers.items():
        assert values.shape == original[output].shape
        assert np.isfinite(values).all()
        assert _cosine(values, original[output]) > LEAST_COSINE.get((kind, name), 0.99)


def _files(technique: GraphTechnique, workshop: Workshop, folder: Path) -> ModelFiles | str:
    """What a technique's first choice makes; why it makes nothing where it does not."""
    if reason := technique.why_not(workshop.bundle):
        return reason
    recipe = Recipe(technique.target, (_quicker(technique.choices(workshop.bundle, 5.0)[0], workshop),))
    try:
        return make_files(recipe, workshop, folder)
    except TrialError as error:
        return error.what


def _quicker(config: Config, workshop: Workshop) -> Config:
    known = {field.name for field in fields(config)}
    wanted = QUICKER | (OF_TEXT if workshop.bundle.manifest.name == "sentence-encoder" else {})
    return replace(config, **{name: value for name, value in wanted.items() if name in known})


def _cosine(some: np.ndarray, others: np.ndarray) -> float:
    first, second = some.ravel().astype(np.float64), others.ravel().astype(np.float64)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def test_of_a_transformer_the_last_choice_is_for_transformers(workshops: Workshops) -> None:
    found = {kind: nncf_int8.choices(workshops.of(kind).bundle, 5.0) for kind in ("vision_transformer", "depthwise")}
    assert [config.smooth for config in found["vision_transformer"]] == [False, False, True]
    assert [config.smooth for config in found["depthwise"]] == [False, False]


def test_that_choice_keeps_the_text_encoders_direction(workshops: Workshops, tmp_path: Path) -> None:
    workshop, technique = workshops.of("text_encoder"), TECHNIQUES["nncf_int8"]
    assert isinstance(technique, GraphTechnique)
    last = replace(technique.choices(workshop.bundle, 5.0)[-1], samples=32)
    model = make_files(Recipe("openvino", (last,)), workshop, tmp_path)
    split = workshop.bundle.split("validation")
    original = kept_original_outputs(workshop.bundle, split, workshop.store)
    for output, values in answers_of(model, tmp_path, split, threads=1).items():
        assert _cosine(values, original[output]) > 0.99
