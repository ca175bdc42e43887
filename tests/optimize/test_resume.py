"""A student goes on learning: a revised bundle carries it, and the recipe starts from its shapes and weights."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from leanloop.bundle import Bundle
from leanloop.core.contracts import Analysis, TrialRow
from leanloop.core.settings import Settings, parse_settings
from leanloop.core.store import Store
from leanloop.optimize.apply import CHECKPOINT, keep_checkpoint, make_prefix
from leanloop.optimize.recipe import Recipe, prefix_id
from leanloop.optimize.remake import _milder, _remade, _resumed
from leanloop.optimize.space import Finish
from leanloop.optimize.study import store_url
from leanloop.optimize.techniques import Workshop
from leanloop.optimize.techniques.blending import BlendingConfig
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config
from leanloop.optimize.techniques.resume import ResumeConfig, resume, why_not

TRAINING = DistillationConfig(epochs=4)
STUDENT = Recipe("onnxruntime", (ChannelPruningConfig(ratio=0.5), TRAINING, OrtStaticInt8Config()))


@pytest.fixture(scope="module")
def with_student(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The bundle with a trained student of half the channels in it."""
    folder = tmp_path_factory.mktemp("revised") / "bundle"
    shutil.copytree(workshop.bundle.folder, folder)
    make_prefix(STUDENT.torch, workshop)
    keep_checkpoint(STUDENT, workshop, folder)
    (folder / CHECKPOINT).rename(Bundle(folder).student)
    return replace(workshop, bundle=Bundle(folder))


def test_a_module_takes_the_students_shapes_and_weights(with_student: Workshop) -> None:
    kept = safetensors.torch.load_file(with_student.bundle.student / "weights.safetensors")
    state = make_prefix((ResumeConfig(),), with_student).module.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    whole = with_student.bundle.module().state_dict()
    assert sum(values.numel() for values in kept.values()) < sum(values.numel() for values in whole.values()) / 2


def test_a_student_of_a_student_has_its_shapes_too(with_student: Workshop, tmp_path: Path) -> None:
    resumed = (ResumeConfig(), DistillationConfig(epochs=1))
    folder = tmp_path / "bundle"
    shutil.copytree(with_student.bundle.folder, folder, ignore=shutil.ignore_patterns("student"))
    first = make_prefix(resumed, with_student).module
    keep_checkpoint(Recipe("onnxruntime", resumed), with_student, folder)
    (folder / CHECKPOINT).rename(Bundle(folder).student)
    bundle = Bundle(folder)
    second = bundle.module()
    resume(second, ResumeConfig(), replace(with_student, bundle=bundle))
    outputs = [bundle.call(module.eval(), bundle.samples)["logits"] for module in (first, second)]
    np.testing.assert_array_equal(*outputs)


def test_the_recipe_of_what_serves_goes_on_gently(with_student: Workshop) -> None:
    recipe = _resumed(STUDENT, with_student.bundle, "accuracy")
    assert recipe is not None
    first, training, last, graph = recipe.configs
    assert (first, last, graph) == (ResumeConfig(), BlendingConfig(), STUDENT.graph)
    assert isinstance(training, DistillationConfig)
    assert training.learning_rate == 0.05
    assert training.remembers
    steps = training.epochs * (training.samples // training.batch_size)
    assert steps == pytest.approx(1_200, rel=0.1)
    assert training.samples <= with_student.bundle.manifest.splits["train"].samples
    assert Recipe.from_record(recipe.record()) == recipe
    assert _resumed(recipe, with_student.bundle, "accuracy") == recipe
    nearer = _resumed(recipe, with_student.bundle, "agreement")
    assert nearer is not None
    assert nearer.torch[1] == replace(training, remembers=False)


def test_less_of_what_was_learnt_is_tried_where_the_rest_would_not_do(
    with_student: Workshop, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on Fashion-MNIST: the blend was just within what golden samples may lose, and INT8 took it beyond."""
    document = settings.model_dump(mode="json")
    document["workspace"], document["targets"] = str(tmp_path / "workspace"), ["onnxruntime"]
    document["optimize"] |= {"techniques": [], "workers": 1, "budget_minutes": 5}
    small, bundle = parse_settings(document, source="test"), with_student.bundle
    rows = np.arange(len(bundle.split("validation"))) % 2 == 0
    recipe = Recipe("onnxruntime", (ResumeConfig(), DistillationConfig(epochs=1), BlendingConfig()))
    asked: list[int] = []

    def does(found: Sequence[TrialRow]) -> bool:
        asked.append(len(found))
        return len(found) == 2

    monkeypatch.setattr(bundle, "fresh_rows", lambda split: rows)
    finishes = (Finish("onnxruntime", (None,)),)
    analysis = Analysis.model_construct(metric=1.0, sensitivity=())
    made = _remade(recipe, finishes, bundle, analysis, small, tmp_path / "trials", does)
    assert asked == [1, 2]
    assert [row.state for row in made] == ["complete", "complete"]
    blends = [row.recipe.techniques[-1]["most"] for row in made]
    assert blends == [1.0, 0.7]
    prefixes = [prefix_id(Recipe.from_record(row.recipe).torch, bundle.manifest.digest) for row in made]
    store = Store(store_url(small))
    for identity in (*prefixes, prefix_id(recipe.torch[:2], bundle.manifest.digest)):
        assert store.has_folder(f"prefixes/{identity}"), "the training is kept, and shared"


def test_what_does_not_blend_has_no_milder_ways() -> None:
    assert _milder(STUDENT) == []
    assert _milder(Recipe("onnxruntime", (OrtStaticInt8Config(),))) == []


def test_a_training_is_shared_by_all_blends_that_follow_it(
    with_student: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop, trained = replace(with_student, store=Store(str(tmp_path / "store"))), []
    module = importlib.import_module("leanloop.optimize.techniques.distillation")
    train = module.train
    monkeypatch.setattr(module, "train", lambda *given, **named: trained.append(1) or train(*given, **named))
    first = (ResumeConfig(), DistillationConfig(epochs=1))
    for most in (1.0, 0.55):
        make_prefix((*first, BlendingConfig(most=most)), workshop)
    assert trained == [1]


def test_without_a_student_or_a_training_it_is_made_anew(bundle: Bundle, with_student: Workshop) -> None:
    assert why_not(with_student.bundle) is None
    assert "no student" in (why_not(bundle) or "")
    assert _resumed(STUDENT, bundle, "accuracy") is None
    assert _resumed(Recipe("onnxruntime", (OrtStaticInt8Config(),)), with_student.bundle, "accuracy") is None
