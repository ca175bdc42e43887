from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from leanloop.core.contracts import RecipeRecord
from leanloop.core.errors import SettingsError
from leanloop.optimize import Recipe, prefix_id, recipe, recipe_id
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.optimize.techniques.nncf_int8 import NncfInt8Config
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config

PRUNE, DISTIL, INT8 = ChannelPruningConfig(), DistillationConfig(), OrtStaticInt8Config()
RECIPE = Recipe("onnxruntime", (PRUNE, DISTIL, INT8))


def test_a_recipe_survives_json() -> None:
    text = RECIPE.record().model_dump_json()
    assert Recipe.from_record(RecipeRecord.model_validate_json(text)) == RECIPE
    assert RECIPE.record().describe() == "channel_pruning + distillation + ort_static_int8 @ onnxruntime"


@pytest.mark.parametrize(
    "other",
    [
        Recipe("openvino", (PRUNE, DISTIL)),
        Recipe("onnxruntime", (PRUNE, DISTIL)),
        Recipe("onnxruntime", (DISTIL, PRUNE, INT8)),
        Recipe("onnxruntime", (replace(PRUNE, ratio=0.51), DISTIL, INT8)),
        Recipe("onnxruntime", (PRUNE, replace(DISTIL, seed=1), INT8)),
        Recipe("onnxruntime", (PRUNE, DISTIL, replace(INT8, version=2))),
    ],
)
def test_another_recipe_has_another_id(other: Recipe) -> None:
    assert recipe_id(other, "digest") != recipe_id(RECIPE, "digest")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("code_version", lambda: "9.9"),
        ("tool_versions", lambda: {"torch": "9.9"}),
        ("instruction_sets", lambda: frozenset({"avx2"})),
    ],
)
def test_what_a_result_depends_on_is_in_the_id(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_id(RECIPE, "digest"), prefix_id(RECIPE.torch, "digest")
    assert recipe_id(RECIPE, "other digest") != before[0]
    monkeypatch.setattr(recipe, name, value)
    after = recipe_id(RECIPE, "digest"), prefix_id(RECIPE.torch, "digest")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_recipes_with_one_training_share_its_id() -> None:
    others = Recipe("onnxruntime", (PRUNE, DISTIL)), Recipe("openvino", (PRUNE, DISTIL, NncfInt8Config()))
    assert {prefix_id(one.torch, "digest") for one in (*others, RECIPE)} == {prefix_id(RECIPE.torch, "digest")}


def test_an_untrained_recipe_keeps_its_shape_and_files() -> None:
    assert RECIPE.trains
    untrained = RECIPE.untrained()
    assert not untrained.trains
    assert untrained.torch == (PRUNE,)
    assert isinstance(untrained.graph, OrtStaticInt8Config)


@pytest.mark.parametrize(
    ("target", "configs"),
    [("openvino", (INT8,)), ("onnxruntime", (INT8, PRUNE)), ("onnxruntime", (INT8, OrtStaticInt8Config()))],
)
def test_an_impossible_order_or_target_is_refused(target: Any, configs: Any) -> None:
    with pytest.raises(SettingsError):
        Recipe(target, configs)
