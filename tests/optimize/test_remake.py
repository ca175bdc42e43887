"""The champion's recipe again: as many steps as before, other files of the same module, and a search where it fails."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from leanloop.bundle import Bundle
from leanloop.core.contracts import Aim, Analysis, Candidates, RecipeRecord, SplitSummary, TrialRow
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.optimize.objective import HOLDS_ACCURACY, LOSES, holds
from leanloop.optimize.recipe import Recipe
from leanloop.optimize.remake import (
    _as_long,
    _better_on_recent,
    _does,
    _keeps_golden,
    _likes,
    _outputs,
    _siblings,
    as_quick,
    remake,
)
from leanloop.optimize.space import make_space
from leanloop.optimize.study import store_url
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.optimize.techniques.ort_dynamic_int8 import OrtDynamicInt8Config
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config

PRUNED = (ChannelPruningConfig(ratio=0.5), DistillationConfig(epochs=4))


@pytest.fixture
def small(settings: Settings, tmp_path: Path) -> Settings:
    """Post-training techniques of one runtime, and a study of its own: a search over these takes seconds."""
    document = settings.model_dump(mode="json")
    document["workspace"] = str(tmp_path / "workspace")
    document["targets"] = ["onnxruntime"]
    document["optimize"] |= {"techniques": ["ort_dynamic_int8"], "workers": 1, "budget_minutes": 1}
    return Settings.model_validate(document)


@pytest.fixture
def analysis(bundle: Bundle) -> Analysis:
    return Analysis(
        bundle_digest=bundle.manifest.digest,
        parameters=1,
        macs=1,
        weight_bytes=1,
        activation_bytes=1,
        batch_size=8,
        latency_ms=1.0,
        metric_name="accuracy",
        metric=1.0,
        layers=(),
        sensitivity=(),
        coverage=(),
        opportunities=(),
        hardware_id="",
    )


def remade(
    recipe: RecipeRecord | None,
    bundle: Bundle,
    analysis: Analysis,
    settings: Settings,
    folder: Path,
    aim: Aim = "accuracy",
) -> Candidates:
    # What serves answers at random.
    serving = np.random.default_rng(0).normal(size=(len(bundle.split("validation")), 10)).astype(np.float32)
    made = remake(bundle, analysis, recipe, bundle.manifest, settings, folder, aim=aim, serving=serving)
    assert Candidates.load(folder) == made
    assert all((folder / identity / "candidate.json").exists() for identity in made.candidates)
    return made


def test_a_recipe_trains_as_many_steps_as_it_did(bundle: Bundle) -> None:
    half = dict(bundle.manifest.splits) | {"train": SplitSummary(samples=550, labelled=True)}
    revised = bundle.manifest.model_copy(update={"splits": half})
    recipe = _as_long(Recipe("onnxruntime", PRUNED), bundle.manifest, revised)
    assert recipe.configs == (PRUNED[0], DistillationConfig(epochs=8))
    post_training = Recipe("onnxruntime", (OrtStaticInt8Config(),))
    assert _as_long(post_training, bundle.manifest, revised) == post_training


def test_siblings_are_the_other_files_of_the_same_module(bundle: Bundle, settings: Settings) -> None:
    finishes = make_space(bundle, settings).finishes
    recipe = Recipe("onnxruntime", (*PRUNED, OrtStaticInt8Config(per_channel=False)))
    likes, siblings = _likes(recipe, finishes), _siblings(recipe, finishes)
    assert likes[0] == recipe
    assert {one.graph.technique for one in likes if one.graph} == {"ort_static_int8"}
    assert all(one.torch == PRUNED for group in siblings for one in group)
    names = {(group[0].target, group[0].graph.technique if group[0].graph else None) for group in siblings}
    assert ("onnxruntime", "ort_dynamic_int8") in names
    assert ("onnxruntime", None) in names
    assert ("onnxruntime", "ort_static_int8") not in names


def test_of_the_original_a_plain_conversion_is_no_sibling(bundle: Bundle, settings: Settings) -> None:
    groups = _siblings(Recipe("onnxruntime", (OrtStaticInt8Config(),)), make_space(bundle, settings).finishes)
    assert groups
    assert all(one.configs for group in groups for one in group)


def test_a_recipe_that_holds_is_not_followed_by_a_search(
    bundle: Bundle, analysis: Analysis, small: Settings, tmp_path: Path
) -> None:
    recipe = Recipe("onnxruntime", (OrtStaticInt8Config(),)).record()
    made = remade(recipe, bundle, analysis, small, tmp_path / "made")
    assert made.trials[0].recipe == recipe
    assert not (tmp_path / "made/trials/0").exists()


def test_on_recent_samples_it_must_be_really_better_than_what_serves(
    bundle: Bundle, analysis: Analysis, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = remade(Recipe("onnxruntime", (OrtStaticInt8Config(),)).record(), bundle, analysis, small, tmp_path / "made")
    store, row = Store(store_url(small)), made.trials[0]
    equal = _outputs(row, store)
    recent = np.arange(len(equal)) % 2 == 0
    worse = equal.copy()
    worse[recent] = np.roll(worse[recent], 1, axis=1)
    monkeypatch.setattr(bundle, "fresh_rows", lambda split: recent)
    assert _better_on_recent(equal, worse, bundle, store)
    assert not _better_on_recent(equal, equal, bundle, store)
    monkeypatch.setattr(bundle, "fresh_rows", lambda split: ~recent)
    assert not _better_on_recent(equal, worse, bundle, store), "only golden answers are better"


def test_on_golden_samples_it_must_lose_no_more_than_what_serves_may(
    bundle: Bundle, analysis: Analysis, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on Fashion-MNIST: near enough to the revised parent, surely worse than what served, refused at the end."""
    made = remade(Recipe("onnxruntime", (OrtStaticInt8Config(),)).record(), bundle, analysis, small, tmp_path / "made")
    store, row = Store(store_url(small)), made.trials[0]
    assert holds(row)
    equal = _outputs(row, store)
    recent = np.arange(len(equal)) % 2 == 0
    monkeypatch.setattr(bundle, "fresh_rows", lambda split: recent)

    def wrong_in(part: np.ndarray, number: int) -> np.ndarray:
        found = equal.copy()
        rows = np.flatnonzero(part)[:number]
        found[rows] = np.roll(found[rows], 1, axis=1)
        return found

    assert _keeps_golden(equal, equal, bundle, store)
    assert _keeps_golden(wrong_in(recent, 50), equal, bundle, store), "recent ones are not asked about"
    assert _keeps_golden(wrong_in(~recent, 1), equal, bundle, store), "chance"
    assert not _keeps_golden(wrong_in(~recent, 10), equal, bundle, store)
    assert _does(row, equal, bundle, store)
    module = importlib.import_module("leanloop.optimize.remake")
    monkeypatch.setattr(module, "_outputs", lambda row, store: wrong_in(~recent, 10))
    assert not _does(row, equal, bundle, store)


def test_without_golden_samples_there_are_none_to_lose(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = np.ones(len(bundle.split("validation")), bool)
    monkeypatch.setattr(bundle, "fresh_rows", lambda split: everything)
    right, wrong = (np.zeros((len(everything), 10), np.float32) for _ in range(2))
    assert _keeps_golden(wrong, right, bundle, Store("memory://unused"))


def test_other_files_that_hold_do_not_do_where_they_are_slower_than_what_serves() -> None:
    """Seen on Fashion-MNIST: INT8 for another runtime kept the accuracy, took 1.76 times as long, and was refused."""

    def row(recipe: Recipe, latency_ms: float, reason: str) -> TrialRow:
        return TrialRow(
            trial=0, recipe=recipe.record(), candidate_id="c", state="complete", rung="full", latency_ms=latency_ms,
            metric=0.9, size_bytes=1, seconds=1.0, reason=reason,
        )  # fmt: skip

    champion = Recipe("onnxruntime", (*PRUNED, OrtStaticInt8Config()))
    own = row(champion, 0.10, LOSES)
    other_settings = row(Recipe("onnxruntime", (*PRUNED, OrtStaticInt8Config(per_channel=False))), 0.12, HOLDS_ACCURACY)
    slower = row(Recipe("onnxruntime", (*PRUNED, OrtDynamicInt8Config())), 0.176, HOLDS_ACCURACY)
    faster = row(Recipe("onnxruntime", PRUNED), 0.109, HOLDS_ACCURACY)
    assert as_quick([own, other_settings, slower, faster], champion.record()) == [own, faster]
    assert as_quick([slower, faster], champion.record()) == [], "nobody knows how fast what serves is"
    assert as_quick([own], None) == []


@pytest.mark.parametrize(
    ("champion", "aim"),
    [
        (None, "accuracy"),
        (Recipe("onnxruntime", (ChannelPruningConfig(ratio=0.75),)).record(), "accuracy"),
        (Recipe("onnxruntime", (OrtDynamicInt8Config(),)).record(), "latency"),
    ],
    ids=["no recipe", "a recipe that fails", "a recipe that is too slow"],
)
def test_a_search_follows(
    champion: RecipeRecord | None, aim: Aim, bundle: Bundle, analysis: Analysis, small: Settings, tmp_path: Path
) -> None:
    made = remade(champion, bundle, analysis, small, tmp_path / "made", aim)
    assert (tmp_path / "made/trials/0").exists()
    techniques = {config["technique"] for row in made.trials for config in row.recipe.techniques}
    assert "ort_dynamic_int8" in techniques
    assert champion is None or made.trials[0].recipe == champion
