"""What every registered technique must do, and what adding one takes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from leanloop.bundle import Bundle
from leanloop.core.contracts import ModelFiles, RecipeRecord
from leanloop.core.errors import SettingsError, TrialError
from leanloop.core.settings import GoalSettings
from leanloop.optimize import TECHNIQUES, Config, GraphTechnique, Recipe, TorchTechnique, Workshop, read_config
from leanloop.optimize.apply import make_files
from leanloop.optimize.candidate import finish_one
from leanloop.optimize.plan import Job
from leanloop.optimize.space import make_space
from leanloop.optimize.techniques import (
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
    semi_structured_pruning,
    unstructured_pruning,
)
from leanloop.runtime import open_session, original_outputs, predict

NAMES = list(TECHNIQUES)
GRAPH = [name for name in NAMES if isinstance(TECHNIQUES[name], GraphTechnique)]

FORMULA = re.compile(r"::\n\n    |``[^`]*(?:[=+*<>|^/]|\bE\[)[^`]*``")
"""Set apart, or in code within a sentence."""

WRONG: list[tuple[type[Config], str, Any]] = [
    (channel_pruning.ChannelPruningConfig, "ratio", 1.5),
    (channel_pruning.ChannelPruningConfig, "round_to", 0),
    (channel_pruning.ChannelPruningConfig, "importance", "random"),
    (distillation.DistillationConfig, "epochs", 0),
    (distillation.DistillationConfig, "alpha", 1.2),
    (distillation.DistillationConfig, "temperature", -4.0),
    (distillation.DistillationConfig, "optimizer", "lion"),
    (nncf_int8.NncfInt8Config, "preset", "fast"),
    (channel_pruning.ChannelPruningConfig, "scope", "local"),
    (channel_pruning.ChannelPruningConfig, "steps", 0),
    (nncf_int8.NncfInt8Config, "bias_correction", "none"),
    (ort_dynamic_int8.OrtDynamicInt8Config, "per_channel", "yes"),
    (ort_static_int8.OrtStaticInt8Config, "calibration", "guess"),
    (nncf_accuracy_aware_int8.NncfAccuracyAwareInt8Config, "max_drop", -0.1),
    (nncf_accuracy_aware_int8.NncfAccuracyAwareInt8Config, "ranked_samples", 1),
    (ort_static_int8.OrtStaticInt8Config, "samples", 0),
    (ort_accuracy_aware_int8.OrtAccuracyAwareInt8Config, "max_drop", 1.0),
    (ort_accuracy_aware_int8.OrtAccuracyAwareInt8Config, "ranked_samples", 0),
    (block_removal.BlockRemovalConfig, "blocks", "a,a"),
    (feature_distillation.FeatureDistillationConfig, "beta", 0.0),
    (semi_structured_pruning.SemiStructuredPruningConfig, "epochs", 0),
    (unstructured_pruning.UnstructuredPruningConfig, "sparsity", 1.0),
    (unstructured_pruning.UnstructuredPruningConfig, "scope", "layer"),
    (unstructured_pruning.UnstructuredPruningConfig, "gradual", "slowly"),
]


@pytest.mark.parametrize("name", NAMES)
def test_configs_survive_json(name: str, bundle: Bundle) -> None:
    choices = TECHNIQUES[name].choices(bundle, 5.0)
    assert choices or TECHNIQUES[name].why_not(bundle)
    for config in choices:
        document = json.loads(json.dumps(config.document()))
        assert document["technique"] == name
        assert document["version"] >= 1
        assert read_config(document) == config


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_frozen_and_refuse_unknown_fields(name: str) -> None:
    kind = TECHNIQUES[name].config
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().version = 2  # type: ignore[misc]
    with pytest.raises(SettingsError, match="ratioo"):
        read_config({"technique": name, "version": 1, "ratioo": 0.5})


@pytest.mark.parametrize(("kind", "field", "value"), WRONG)
def test_a_wrong_value_is_named(kind: type[Config], field: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        kind(**{field: value})
    assert field in str(caught.value)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_teaches_and_gives_its_source(name: str) -> None:
    import sys

    documentation = sys.modules[TECHNIQUES[name].config.__module__].__doc__
    assert documentation is not None
    idea, *explanation, source = documentation.strip().split("\n\n")
    assert "\n" not in idea, "the idea is one line"
    assert source.startswith("Source:")
    taught = "\n\n".join(explanation)
    assert FORMULA.search(taught), "no formula, neither set apart (::) nor in a sentence"
    assert re.search(r"\bshape|\[\w+, ", taught, re.IGNORECASE), "not a word on shapes"


def test_an_unknown_technique_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="channel_pruning"):
        read_config({"technique": "magic"})


@pytest.mark.parametrize("name", GRAPH)
def test_files_answer_as_the_original(name: str, workshop: Workshop, tmp_path: Path) -> None:
    technique = TECHNIQUES[name]
    assert isinstance(technique, GraphTechnique)
    if reason := technique.why_not(workshop.bundle):
        pytest.skip(reason)
    recipe = Recipe(technique.target, (technique.choices(workshop.bundle, 5.0)[0],))
    model = make_files(recipe, workshop, tmp_path)
    assert model.runtime == technique.target
    assert model.size_bytes == sum((tmp_path / file).stat().st_size for file in model.files)
    assert _agreement(model, tmp_path, workshop.bundle) >= 0.95


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_plain_files_answer_exactly(target: Any, workshop: Workshop, tmp_path: Path) -> None:
    assert _agreement(make_files(Recipe(target), workshop, tmp_path), tmp_path, workshop.bundle) == 1.0


def test_int8_is_smaller_and_really_runs_on_integers(workshop: Workshop, onnx: Path, tmp_path: Path) -> None:
    model = ort_static_int8.quantise(onnx, tmp_path, ort_static_int8.OrtStaticInt8Config(), workshop)
    assert model.size_bytes < 0.4 * onnx.stat().st_size
    assert ort_static_int8.integer_share(tmp_path / "model.onnx") == 1.0
    assert ort_static_int8.integer_share(onnx) == 0.0


def test_drafts_give_files_of_the_same_size(workshop: Workshop, tmp_path: Path) -> None:
    recipe = Recipe("onnxruntime", (ort_static_int8.OrtStaticInt8Config(),))
    assert recipe.untrained() != recipe
    sizes = [
        make_files(one, workshop, tmp_path / str(number)).size_bytes
        for number, one in enumerate((recipe, recipe.untrained()))
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GRAPH and name not in ("blending", "resume")])
def test_retraining_is_left_out_of_an_onnx_model(name: str, make_onnx_bundle: Bundle) -> None:
    reason = TECHNIQUES[name].why_not(make_onnx_bundle)
    assert reason is not None
    assert reason.startswith("post-training techniques only")


def test_the_space_of_an_onnx_model_tells_what_is_left_out(make_onnx_bundle: Bundle, project: Any) -> None:
    project.document["targets"] = ["onnxruntime"]
    space = make_space(make_onnx_bundle, project.settings)
    assert set(space.left_out) == {"channel_pruning", "distillation", "nncf_int8", "openvino_bf16", "openvino_fp16"}
    assert "openvino is not among" in space.left_out["nncf_int8"].replace(",", "")
    assert not space.shapes
    assert {finish.target for finish in space.finishes} == {"onnxruntime"}


@pytest.fixture
def make_onnx_bundle(project: Any, tmp_path: Path) -> Bundle:
    from leanloop.bundle import pack

    project.use_onnx()
    pack(project.settings, project.folder, tmp_path / "onnx-bundle")
    return Bundle(tmp_path / "onnx-bundle")


@dataclass(frozen=True)
class CopyConfig(Config):
    """A technique from outside the package."""

    technique: ClassVar[str] = "copy"
    breaks: bool = False


def test_a_technique_from_outside_takes_part(workshop: Workshop, tmp_path: Path) -> None:
    calls: list[Path] = []
    with _registered(calls):
        recipe = Recipe.from_record(
            RecipeRecord(target="onnxruntime", techniques=({"technique": "copy", "version": 1, "breaks": False},))
        )
        row = finish_one(recipe, _job(workshop, tmp_path), workshop)
    assert (row.state, row.metric) == ("complete", 1.0)
    assert len(calls) == 1


def test_a_failure_is_not_tried_again(workshop: Workshop, tmp_path: Path) -> None:
    calls: list[Path] = []
    with _registered(calls):
        recipe = Recipe("onnxruntime", (CopyConfig(breaks=True),))
        first, second = (finish_one(recipe, _job(workshop, tmp_path), workshop) for _ in range(2))
    assert first.state == second.state == "failed"
    assert "as it was asked to" in first.reason
    assert "failed before" in second.reason
    assert len(calls) == 1


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        TECHNIQUES.register("distillation")(TECHNIQUES["distillation"])


@contextmanager
def _registered(calls: list[Path]) -> Iterator[None]:
    def copy(source: Path, folder: Path, config: CopyConfig, workshop: Workshop) -> ModelFiles:
        from leanloop.convert import TARGETS

        calls.append(folder)
        if config.breaks:
            raise TrialError("It broke, as it was asked to.")
        return TARGETS["onnxruntime"].convert(source, folder, "fp32")

    TECHNIQUES.register("copy")(
        GraphTechnique("copy", CopyConfig, "onnxruntime", lambda _: None, lambda *_: [CopyConfig()], copy)
    )
    try:
        yield
    finally:
        del TECHNIQUES._items["copy"]


def _job(workshop: Workshop, folder: Path) -> Job:
    return Job(
        bundle=str(workshop.bundle.folder),
        store=workshop.store.url,
        goal=GoalSettings(),
        threads=1,
        trial=0,
        folder=str(folder),
    )


def _agreement(model: ModelFiles, folder: Path, bundle: Bundle) -> float:
    split = bundle.split("validation")
    session = open_session(model, folder, threads=1)
    outputs = predict(session, split)["logits"]
    session.close()
    assert np.isfinite(outputs).all()
    return float((outputs.argmax(1) == original_outputs(bundle, split)["logits"].argmax(1)).mean())


def test_torch_techniques_are_told_apart() -> None:
    kinds = {name: TECHNIQUES[name] for name in NAMES}
    assert {name for name, kind in kinds.items() if isinstance(kind, TorchTechnique)} == {
        "blending",
        "block_removal",
        "channel_pruning",
        "distillation",
        "feature_distillation",
        "quantisation_aware_training",
        "resume",
        "semi_structured_pruning",
        "student",
        "unstructured_pruning",
    }
    assert {name for name, kind in kinds.items() if kind.trains} == {
        "blending",
        "distillation",
        "feature_distillation",
        "quantisation_aware_training",
        "semi_structured_pruning",
        "unstructured_pruning",
    }
    assert openvino_bf16.OpenVinoBf16Config.technique in GRAPH
    assert openvino_fp16.OpenVinoFp16Config.technique in GRAPH
