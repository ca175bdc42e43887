"""Networks of all kinds and every technique that changes one: it does so rightly, or says why it leaves it alone.

What makes files of them is in ``test_kinds_files.py``. Both run every registered technique on every kind and skip
none: a pair that is not to work is in a table, with its reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leanloop.bundle import tensors
from leanloop.core.errors import TrialError
from leanloop.core.settings import load_settings
from leanloop.optimize import TECHNIQUES, Config, GraphTechnique, TorchTechnique, Workshop
from leanloop.optimize.apply import make_prefix
from leanloop.optimize.techniques import channel_pruning
from leanloop.optimize.techniques.block_removal import BlockRemovalConfig
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.masks import weights_of, zero_share
from leanloop.optimize.techniques.resume import ResumeConfig
from leanloop.optimize.techniques.semi_structured_pruning import SemiStructuredPruningConfig, two_of_four
from leanloop.optimize.techniques.training import outputs_of
from leanloop.optimize.techniques.unstructured_pruning import UnstructuredPruningConfig
from tests.optimize import kinds, test_kinds_files
from tests.optimize.workshops import FORMS, KINDS, PARAMS, ROOT, Workshops, brief, training

CHANGING = [name for name in TECHNIQUES if isinstance(TECHNIQUES[name], TorchTechnique)]

GOING_ON = ("resume", "blending")
"""These take a student that a revised bundle has."""

NO_STUDENT = "there is no student that could go on learning"

LEFT_ALONE = {
    **{
        (kind, "block_removal"): "no block of the network can be left out: none gives the shape that it takes"
        for kind in (*FORMS, "digits", "mlp", "recurrent", "linear", "wide")
    },
    **{
        (kind, "student"): "the owner brought no smaller architecture (model.student)"
        for kind in (*FORMS, "digits", "mlp", "depthwise", "vision_transformer", "recurrent")
    },
    **{
        (kind, "feature_distillation"): "no layer gives a map or a sequence, so there is no attention to follow"
        for kind in ("perceptron", "shared", "normalised", "mlp", "linear", "wide")
    },
    ("linear", "channel_pruning"): "No channel can be removed: every layer gives the model's outputs or is protected.",
    **{("text_encoder", name): "post-training techniques only: there is no training data" for name in CHANGING},
    **{("text_encoder", name): NO_STUDENT for name in GOING_ON},
}
"""Kind and technique -> how the reason begins with which it leaves the network alone."""

TOO_MILD = "No channel can be removed: at this ratio each layer keeps all that it has, in such multiples."

MILDEST_LEFT_ALONE = {(kind, "channel_pruning"): TOO_MILD for kind in ("grouped", "shared", "normalised", "recurrent")}
"""Where its mildest choice would change nothing."""


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_changed_rightly_or_left_alone_for_a_known_reason(
    kind: str, name: str, workshops: Workshops
) -> None:
    workshop = workshops.with_student(kind) if name in GOING_ON else workshops.of(kind)
    expected, found = LEFT_ALONE.get((kind, name), ""), _tried(name, workshop)
    if expected:
        assert all(reason.startswith(expected) for reason in found), found
    else:
        assert found == [MILDEST_LEFT_ALONE.get((kind, name), ""), *[""] * (len(found) - 1)]


def _tried(name: str, workshop: Workshop) -> list[str]:
    """Why a technique leaves a network alone; otherwise the same of its first, middle and last choice."""
    bundle, technique = workshop.bundle, TECHNIQUES[name]
    if reason := technique.why_not(bundle):
        return [reason]
    choices = technique.choices(bundle, 5.0)
    places = {0, len(choices) - 1} | ({len(choices) // 2} if not technique.trains else set())
    before = (ResumeConfig(), *training(workshop)) if name == "blending" else ()
    return [_changed((*before, brief(choices[place], bundle)), workshop) for place in sorted(places)]


def _changed(configs: Sequence[Config], workshop: Workshop) -> str:
    """Why some configs cannot be carried out; else they change the network, which comes out of the store the same."""
    bundle = workshop.bundle
    inputs, original = tensors(bundle.split("validation").take(slice(0, 5)).inputs), bundle.module()
    try:
        made, kept = _made(configs, workshop), make_prefix(configs, workshop).module
    except TrialError as error:
        return error.what
    expected, first, second = (_answers(module, inputs) for module in (original, made, kept))
    assert [values.shape for values in first] == [values.shape for values in expected]
    assert all(torch.isfinite(values).all() for values in first)
    torch.testing.assert_close(first, second)
    _check_change(configs[-1], original, made)
    return ""


def _made(configs: Sequence[Config], workshop: Workshop) -> nn.Module:
    """The original after some configs, without the store's help."""
    module = workshop.bundle.module()
    for config in configs:
        technique = TECHNIQUES[config.technique]
        assert isinstance(technique, TorchTechnique)
        module = technique.apply(module, config, workshop).module
    return module.eval()


def _answers(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        return outputs_of(module(*inputs))


def _check_change(config: Config, original: nn.Module, made: nn.Module) -> None:
    """Something is other than before, and what a technique is about is as its config says."""
    before, after = original.state_dict(), made.state_dict()
    assert before.keys() != after.keys() or not all(torch.equal(before[name], after[name]) for name in before)
    match config:
        case ChannelPruningConfig() | BlockRemovalConfig():
            assert _size(made) < _size(original)
        case UnstructuredPruningConfig():
            assert zero_share(made) == pytest.approx(config.sparsity, abs=0.01)
        case SemiStructuredPruningConfig():
            weights = weights_of(made)
            masks = two_of_four(weights)
            assert masks
            assert all(torch.equal(weights[name], weights[name] * mask) for name, mask in masks.items())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_student_there_is_none_to_go_on(kind: str, workshops: Workshops) -> None:
    assert {TECHNIQUES[name].why_not(workshops.of(kind).bundle) for name in GOING_ON} == {NO_STUDENT}


def test_layers_that_cannot_be_taken_apart_are_left_alone_and_named(
    workshops: Workshops, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(channel_pruning, "emit", lambda _kind, **fields: told.append(fields))
    workshop = workshops.of("vision_transformer")
    module = workshop.bundle.module()
    before = {name: layer.weight.shape for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    channel_pruning.prune(module, ChannelPruningConfig(ratio=0.5, round_to=4), workshop)
    after = {name: layer.weight.shape for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    # One projection for query, key and value is split by a size that is written into the code.
    assert {f"blocks.{number}.attention.ask" for number in range(3)} <= set(told[0]["layers"])
    assert [after[name][0] for name in told[0]["layers"]] == [before[name][0] for name in told[0]["layers"]]
    assert after["blocks.0.mlp.0"][0] == before["blocks.0.mlp.0"][0] / 2


def test_every_registered_technique_is_run_on_every_kind() -> None:
    assert sorted([*CHANGING, *test_kinds_files.QUANTISING]) == sorted(TECHNIQUES)
    assert set(CHANGING).isdisjoint(test_kinds_files.QUANTISING)
    assert all(isinstance(TECHNIQUES[name], GraphTechnique) for name in test_kinds_files.QUANTISING)


def test_every_shipped_example_and_every_form_is_a_kind() -> None:
    shipped = {
        load_settings(file).model.name
        for file in [ROOT / "params.yaml", *(ROOT / "examples").rglob("*.yaml")]
        if "dvc" not in file.name
    }
    assert {load_settings(PARAMS[kind]).model.name for kind in PARAMS} == shipped
    functions = inspect.getmembers(kinds, inspect.isfunction)
    assert {name for name, function in functions if function.__module__ == kinds.__name__} == set(FORMS)


def test_the_tables_name_kinds_and_techniques() -> None:
    tables = (LEFT_ALONE, MILDEST_LEFT_ALONE, test_kinds_files.LEFT_ALONE, test_kinds_files.LEAST_COSINE)
    for table in tables:
        assert {kind for kind, _ in table} <= set(KINDS)
        assert {name for _, name in table} <= set(TECHNIQUES)
