"""Shapes on ladders: narrower stages, whole blocks less, and how the search goes from one ladder to the next."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import NoReturn

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leanloop.bundle import Bundle, pack
from leanloop.core import hardware
from leanloop.core.contracts import Analysis, Candidate, LayerSensitivity, RecipeRecord
from leanloop.core.errors import SettingsError, TrialError
from leanloop.core.hardware import vector_lanes
from leanloop.core.settings import GoalSettings, Settings, load_settings
from leanloop.core.store import Store
from leanloop.optimize import TECHNIQUES, Config, Findings, Recipe, TorchTechnique, Workshop, trial
from leanloop.optimize.apply import make_prefix
from leanloop.optimize.candidate import finish_one
from leanloop.optimize.plan import ABLE, NOT_ENOUGH, Job, Outcome, Plan
from leanloop.optimize.search import made_alike
from leanloop.optimize.space import EFFORTS, OWN_SHAPE, PROBE, Space, make_space
from leanloop.optimize.techniques import channel_pruning
from leanloop.optimize.techniques.block_removal import BlockRemovalConfig
from leanloop.optimize.techniques.channel_groups import free_layers, nearest, output_layers, stages_of
from leanloop.optimize.techniques.channel_pruning import (
    ChannelPruningConfig,
    around_fragile,
    narrower,
    prune,
    trace_inputs,
    whole_network,
)
from leanloop.optimize.techniques.findings import fragile_layers
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config
from leanloop.optimize.trial import beside, run_trial

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def residual_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The residual CNN of Fashion-MNIST, with fresh weights, on the digits' smaller images: three resolutions."""
    folder = tmp_path_factory.mktemp("residual")
    source = EXAMPLES / "fashion_mnist/model.py"
    spec = importlib.util.spec_from_file_location("residual_model", source)
    assert spec is not None
    assert spec.loader is not None
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    torch.manual_seed(0)
    safetensors.torch.save_file(model.residual_cnn().state_dict(), folder / "fresh.safetensors")
    return load_settings(
        EXAMPLES / "digits/params.yaml",
        {
            "model.file": str(folder / "fresh.safetensors"),
            "model.factory": "model:residual_cnn",
            "model.code": [str(source), str(EXAMPLES / "digits/data.py")],
            "optimize.techniques": ["channel_pruning", "block_removal", "distillation"],
            "targets": ["onnxruntime"],
            "workspace": str(folder / "workspace"),
        },
    )


@pytest.fixture(scope="module")
def residual(residual_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("bundle")
    pack(residual_settings, EXAMPLES / "digits", folder / "bundle")
    return Workshop(Bundle(folder / "bundle"), Store(str(folder / "store")), threads=1)


def _widths(module: nn.Module) -> list[int]:
    return [layer.out_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def test_layers_of_one_resolution_are_a_stage(residual: Workshop) -> None:
    module = residual.bundle.module()
    stages = {
        name: stages_of(module, trace_inputs(residual.bundle)).get(layer) for name, layer in module.named_modules()
    }
    found = {name: stage for name, stage in stages.items() if stage is not None}
    assert found == {
        "stem.0": 0, "stages.0.conv1": 0, "stages.0.conv2": 0,
        "stages.1.conv1": 1, "stages.1.conv2": 1, "stages.1.shortcut.0": 1,
        "stages.2.conv1": 2, "stages.2.conv2": 2, "stages.2.shortcut.0": 2,
    }  # fmt: skip


def test_each_stage_gets_its_own_width(residual: Workshop) -> None:
    module = residual.bundle.module()
    prune(module, ChannelPruningConfig(stages="0.625,0.5,0.75", round_to=4), residual)
    assert _widths(module) == [12, 12, 12, 32, 32, 32, 32, 32, 32]
    assert module(IMAGES).shape == (4, 10)


def test_another_number_of_stages_is_refused(residual: Workshop) -> None:
    with pytest.raises(TrialError, match=r"(?s)number of stages.*It has 3"):
        prune(residual.bundle.module(), ChannelPruningConfig(stages="0.5,0.5"), residual)
    with pytest.raises(SettingsError, match="stages"):
        ChannelPruningConfig(stages="0.5,1.5")


def test_a_ladder_per_stage_takes_more_of_that_one(residual: Workshop) -> None:
    ladders = narrower(residual.bundle, 5.0)
    assert list(ladders) == ["stage 1 narrower", "stage 2 narrower", "stage 3 narrower"]
    for number, ladder in enumerate(ladders.values()):
        for config in ladder:
            others = [ratio for place, ratio in enumerate(config.by_stage) if place != number]
            assert set(others) == {config.ratio}
            assert config.by_stage[number] == pytest.approx(config.ratio + (1 - config.ratio) / 4)


def test_a_network_of_one_resolution_has_no_such_ladders(workshop: Workshop) -> None:
    assert narrower(workshop.bundle, 5.0) == {}


def test_the_space_combines_what_reshapes(residual: Workshop, residual_settings: Settings) -> None:
    space = make_space(residual.bundle, residual_settings)
    assert list(space.shapes) == [
        "channel_pruning",
        "channel_pruning, stage 1 narrower",
        "channel_pruning, stage 2 narrower",
        "channel_pruning, stage 3 narrower",
        "channel_pruning, of the whole network",
        "block_removal 1, channel_pruning",
    ]
    shorter = space.shapes["block_removal 1, channel_pruning"]
    assert shorter[0] == (BlockRemovalConfig(blocks="stages.0"),)
    assert [rung[1:] for rung in shorter[1:]] == list(space.shapes["channel_pruning"])
    assert space.torch("channel_pruning", 3, PROBE) == space.torch("channel_pruning", 3, 1)


@given(st.integers(2, 2048), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_who_loses_more_than_a_quarter_gets_narrower(width: int, round_to: int) -> None:
    """Hence the ladder over the whole network begins there: on average its layers lose as much."""
    assert 1 <= nearest(width, width - width // 4 - 1, round_to) < width


def test_the_least_important_of_the_whole_network_go_in_whole_vectors(residual: Workshop) -> None:
    ladder = whole_network(residual.bundle, 5.0)["of the whole network"]
    ratios = [config.ratio for config in ladder]
    assert ratios == sorted(set(ratios))
    assert {(one.importance, one.scope, one.round_to) for one in ladder} == {("taylor", "global", vector_lanes())}
    assert ladder[0].steps > 1
    sizes, lanes = [_size(residual.bundle.module())], 16
    for config in (ladder[0], ladder[len(ladder) // 2], ladder[-1]):
        module = residual.bundle.module()
        prune(module, replace(config, round_to=lanes), residual)
        # Below one vector, half a vector and so on.
        assert all(width % lanes == 0 or width in (1, 2, 4, 8) for width in _widths(module))
        sizes.append(_size(module))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_mild_pruning_in_vectors_stays_mild(residual: Workshop) -> None:
    """Rounded down, each layer that is to lose one channel would lose sixteen."""
    module = residual.bundle.module()
    before = sum(_widths(module))
    prune(module, ChannelPruningConfig(ratio=0.1, round_to=16, scope="global", steps=4), residual)
    assert 0.85 < sum(_widths(module)) / before < 0.95


def test_a_tenth_of_every_layer_stays(residual: Workshop) -> None:
    module, before = residual.bundle.module(), _widths(residual.bundle.module())
    prune(module, ChannelPruningConfig(ratio=0.875, round_to=1, scope="global", importance="taylor"), residual)
    assert all(10 * after >= width for after, width in zip(_widths(module), before, strict=True))


def test_without_labels_nobody_asks_for_the_loss(residual: Workshop) -> None:
    split = residual.bundle.manifest.splits["train"].model_copy(update={"labelled": False})
    manifest = residual.bundle.manifest.model_copy(update={"splits": {"train": split}})
    assert whole_network(SimpleNamespace(manifest=manifest), 5.0) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(("isa", "lanes"), [({"avx2", "avx512f"}, 16), ({"avx2"}, 8), ({"neon"}, 4), (set(), 4)])
def test_a_vector_is_as_long_as_the_machines(isa: set[str], lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset(isa))
    assert vector_lanes() == lanes


DROPS = {"stem.0": 0.3, "stages.0.conv1": 0.01, "stages.1.conv2": 0.4, "stages.2.conv1": 0.02, "node_Conv_9": 0.9} | {
    f"stages.{stage}.{name}": 0.02 for stage, name in ((0, "conv2"), (1, "conv1"), (1, "shortcut.0"), (2, "conv2"))
}


def _findings(drops: Mapping[str, float], metric: float = 0.9, allowed: float = 0.01) -> Findings:
    sensitivity = [
        LayerSensitivity(name=name, treatment=treatment, metric=metric - drop, drop=drop)
        for name, prune_drop in drops.items()
        for treatment, drop in (("int8", 1.0 - prune_drop), ("prune_50", prune_drop))
    ]
    analysis = Analysis.model_construct(metric=metric, sensitivity=tuple(sensitivity))
    return Findings(GoalSettings(max_accuracy_drop=allowed), analysis)


def test_fragile_is_what_stands_out_and_costs_more_than_is_allowed(residual: Workshop) -> None:
    layers = [name for name, _ in residual.bundle.module().named_modules()]
    assert fragile_layers(_findings(DROPS), layers) == ["stages.1.conv2", "stem.0"]
    assert fragile_layers(_findings(DROPS), [*layers, "node_Conv_9"]) == ["node_Conv_9", "stages.1.conv2"]
    assert fragile_layers(_findings(DROPS, allowed=0.4), layers) == ["stages.1.conv2"], "0.36 may be lost"
    assert fragile_layers(_findings(dict.fromkeys(DROPS, 0.3)), layers) == [], "none more than the others"
    assert fragile_layers(Findings(GoalSettings()), layers) == []


@given(st.dictionaries(st.sampled_from("abcdefghijkl"), st.floats(-1, 1)), st.floats(0, 1), st.floats(-10, 10))
def test_whatever_the_drops_few_are_fragile(drops: dict[str, float], allowed: float, metric: float) -> None:
    found = fragile_layers(_findings(drops, metric, allowed), drops)
    assert len(found) <= max(1, len(drops) // 4)
    assert all(drops[name] > allowed * abs(metric) for name in found)
    assert all(drops[name] >= drops[other] for name in found for other in drops.keys() - found)
    assert all(drops[name] >= 2 * median(drops.values()) for name in found)


def test_a_ladder_leaves_fragile_layers_whole(residual: Workshop, residual_settings: Settings) -> None:
    plain = make_space(residual.bundle, residual_settings)
    space = make_space(residual.bundle, residual_settings, _findings(DROPS).analysis)
    assert list(space.shapes) == [*plain.shapes, "channel_pruning, around fragile layers"], "tried last"
    assert space.digest(residual_settings) != plain.digest(residual_settings)
    again = make_space(residual.bundle, residual_settings, _findings(DROPS).analysis)
    assert space.digest(residual_settings) == again.digest(residual_settings)
    ladder = [rung[0] for rung in space.shapes["channel_pruning, around fragile layers"]]
    original, sizes = residual.bundle.module(), []
    for config in (ladder[0], ladder[len(ladder) // 2], ladder[-1]):
        assert isinstance(config, ChannelPruningConfig)
        module = residual.bundle.module()
        prune(module, config, residual)
        for name in ("stem.0", "stages.1.conv2"):
            assert _width_of(module, name) == _width_of(original, name)
        assert _width_of(module, "stages.0.conv2") == _width_of(original, "stages.0.conv2"), "tied to the stem"
        sizes.append(_size(module))
    assert _size(original) > sizes[0] > sizes[1] > sizes[2], "from mild to strong, and the mildest takes something"


def test_where_all_is_tied_to_what_is_fragile_there_is_no_such_ladder(workshop: Workshop) -> None:
    module = workshop.bundle.module()
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    fragile = {"stem": 0.5} | dict.fromkeys((name for name in names if name != "stem"), 0.001)
    assert around_fragile(workshop.bundle, 5.0, _findings(fragile)).keys() == {"around fragile layers"}
    ends = output_layers(module, channel_pruning._trace(module, workshop.bundle))
    assert free_layers(channel_pruning._trace(module, workshop.bundle), [*ends, *module.children()]) == []
    assert around_fragile(workshop.bundle, 5.0, _findings(dict.fromkeys(names, 0.001))) == {}


def test_what_analysis_breaks_leaves_the_other_ladders(residual: Workshop, residual_settings: Settings) -> None:
    broken = Analysis.model_construct(metric=1.0)
    space = make_space(residual.bundle, residual_settings, broken)
    assert list(space.shapes) == list(make_space(residual.bundle, residual_settings).shapes)
    assert "sensitivity" in space.left_out["channel_pruning, shapes by analysis"]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _width_of(module: nn.Module, name: str) -> int:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return layer.out_channels


def test_without_pruning_blocks_are_a_ladder_of_their_own(residual: Workshop, residual_settings: Settings) -> None:
    optimize = residual_settings.optimize.model_copy(update={"techniques": ("block_removal", "distillation")})
    space = make_space(residual.bundle, residual_settings.model_copy(update={"optimize": optimize}))
    assert space.shapes == {"block_removal": ((BlockRemovalConfig(blocks="stages.0"),),)}


def test_a_shorter_and_narrower_network_comes_back_from_the_store(residual: Workshop) -> None:
    configs = (BlockRemovalConfig(blocks="stages.0"), ChannelPruningConfig(ratio=0.5))
    made, again = make_prefix(configs, residual).module, make_prefix(configs, residual).module
    assert _widths(again) == _widths(made) == [16, 32, 32, 32, 64, 64, 64]
    assert isinstance(again.get_submodule("stages.0"), nn.Identity)
    torch.testing.assert_close(again(IMAGES), made(IMAGES))


@pytest.mark.parametrize(("best", "status"), [(None, ABLE), (1e-6, NOT_ENOUGH)])
def test_a_probe_times_and_trains_nothing(residual: Workshop, tmp_path: Path, best: float | None, status: str) -> None:
    configs = make_distilled(residual)
    recipe = Recipe("onnxruntime", configs)
    job = _job(residual, tmp_path)
    plan = Plan(groups=((recipe.record(),),), best=best, short_floor=0.0, deadline=0.0, probe=True)
    outcome = Outcome.model_validate(run_trial(job.model_dump(mode="json"), plan.model_dump(mode="json")))
    assert outcome.status == status
    assert outcome.short_metric is None
    assert [(row.state, row.rung) for row in outcome.rows] == [("pruned", "latency")]
    assert outcome.rows[0].latency_ms is not None
    assert RecipeRecord.model_validate(outcome.rows[0].recipe) == recipe.record()


def make_distilled(residual: Workshop) -> tuple[Config, ...]:
    distillation = TECHNIQUES["distillation"]
    assert isinstance(distillation, TorchTechnique)
    return (ChannelPruningConfig(ratio=0.5), distillation.choices(residual.bundle, 5.0)[0])


def test_a_probe_takes_the_machines_mood_into_account(
    residual: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(residual, tmp_path)
    row = finish_one(Recipe("onnxruntime", (ChannelPruningConfig(ratio=0.75),)), job, residual)
    assert row.latency_ms is not None
    place = tmp_path / "rival"
    residual.store.get_folder(f"candidates/{row.candidate_id}", place)
    made = Candidate.load(place)
    found = beside(row.candidate_id, made.model, place, job, residual)
    assert 0.5 * row.latency_ms < found < 2 * row.latency_ms, "a model beside itself"
    monkeypatch.setattr(trial, "quick_ratio", lambda *_, **__: 1.5)
    assert beside(row.candidate_id, made.model, place, job, residual) == pytest.approx(1.5 * made.latency_ms)


def test_what_is_made_alike_is_told_by_target_and_technique(residual: Workshop, tmp_path: Path) -> None:
    best = finish_one(Recipe("onnxruntime", (ChannelPruningConfig(ratio=0.75),)), _job(residual, tmp_path), residual)
    assert made_alike(Recipe("onnxruntime", (ChannelPruningConfig(ratio=0.5),)), best)
    assert not made_alike(Recipe("openvino", (ChannelPruningConfig(ratio=0.5),)), best)
    assert not made_alike(Recipe("onnxruntime", (OrtStaticInt8Config(),)), best)


def _job(residual: Workshop, folder: Path) -> Job:
    return Job(
        bundle=str(residual.bundle.folder),
        store=residual.store.url,
        goal=GoalSettings(),
        threads=1,
        trial=0,
        folder=str(folder),
    )


def _space(workshop: Workshop, settings: Settings, *techniques: str) -> Space:
    optimize = settings.optimize.model_copy(update={"techniques": techniques})
    return make_space(workshop.bundle, settings.model_copy(update={"optimize": optimize}))


def test_where_nothing_reshapes_the_original_is_trained_as_it_is(
    residual: Workshop, residual_settings: Settings
) -> None:
    space = _space(residual, residual_settings, "quantisation_aware_training", "ort_static_int8")
    assert space.shapes == {OWN_SHAPE: ((),)}
    assert [config.technique for config in space.torch(OWN_SHAPE, 1, 1)] == ["quantisation_aware_training"]
    assert space.trains


def test_sparsities_are_a_ladder_that_trains_itself(residual: Workshop, residual_settings: Settings) -> None:
    space = _space(residual, residual_settings, "channel_pruning", "unstructured_pruning", "distillation")
    assert [rung[0].sparsity for rung in space.shapes["unstructured_pruning"]] == [0.5, 0.7, 0.8, 0.9]  # type: ignore[attr-defined]
    (usual,), (longer,) = (space.torch("unstructured_pruning", 2, effort) for effort in EFFORTS)
    assert longer.epochs == 2 * usual.epochs  # type: ignore[attr-defined]
    assert [config.technique for config in space.torch("channel_pruning", 1, 1)] == ["channel_pruning", "distillation"]


def test_a_technique_that_a_model_breaks_is_left_out_and_the_others_go_on(
    residual: Workshop, residual_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> NoReturn:
        raise IndexError("list index out of range")

    found = TECHNIQUES["channel_pruning"]
    monkeypatch.setitem(TECHNIQUES._items, "channel_pruning", replace(found, choices=breaks))
    space = _space(residual, residual_settings, "channel_pruning", "block_removal", "distillation")
    assert list(space.shapes) == ["block_removal"]
    assert "IndexError: list index out of range" in space.left_out["channel_pruning"]
    monkeypatch.setitem(TECHNIQUES._items, "channel_pruning", replace(found, further=breaks))
    space = _space(residual, residual_settings, "channel_pruning", "distillation")
    assert list(space.shapes) == ["channel_pruning"]
    assert "list index" in space.left_out["channel_pruning, further shapes"]
