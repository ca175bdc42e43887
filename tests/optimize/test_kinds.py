"""Networks of many kinds: each technique changes one rightly, or leaves it alone and says why; none breaks it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from leanloop.bundle import Bundle, pack, tensors
from leanloop.core.errors import TrialError
from leanloop.core.settings import Settings, load_settings
from leanloop.core.store import Store
from leanloop.optimize import TECHNIQUES, GraphTechnique, Recipe, TorchTechnique, Workshop
from leanloop.optimize.apply import make_files, make_prefix
from leanloop.optimize.techniques import Config, channel_pruning, nncf_int8
from leanloop.runtime import answers_of, original_outputs
from tests.optimize import kinds

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
OTHERS = DIGITS.parent / "kinds"

FORMS = ("perceptron", "grouped", "branches", "shared", "normalised")
"""Of ``kinds.py`` beside this file, with fresh weights."""

EXAMPLES = ("depthwise", "vision_transformer", "recurrent", "linear", "wide")
"""The shipped examples of other kinds, trained."""

KINDS = FORMS + EXAMPLES

RESHAPING = [
    name for name in TECHNIQUES if isinstance(TECHNIQUES[name], TorchTechnique) and not TECHNIQUES[name].trains
]  # fmt: skip
QUANTISING = [
    # The accuracy-aware ones make the same files, and are tested where something must be given back.
    name for name in TECHNIQUES if isinstance(TECHNIQUES[name], GraphTechnique) and "aware" not in name
]  # fmt: skip

LEFT_ALONE = {
    ("linear", "channel_pruning"),
}
"""Where it is known that nothing can be taken out."""


LEAST_COSINE = {("vision_transformer", "ort_static_int8"): 0.9}
"""One scale per tensor for the sums of a transformer's branches, with its outliers: what SmoothQuant is about."""


@pytest.fixture(scope="module")
def workshops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workshop]:
    """One of each kind."""
    found, trained = {}, tmp_path_factory.mktemp("trained")
    subprocess.run([sys.executable, OTHERS / "train.py", *EXAMPLES, "--out", trained], check=True)
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        project = OTHERS if kind in EXAMPLES else DIGITS
        settings = _settings(kind, trained) if kind in EXAMPLES else _fresh(kind, folder)
        pack(settings, project, folder / "bundle")
        found[kind] = Workshop(Bundle(folder / "bundle"), Store(str(folder / "store")), threads=1)
    return found


def _settings(example: str, trained: Path) -> Settings:
    weights = str(trained / f"{example}.safetensors")
    return load_settings(OTHERS / f"{example}.yaml", {"model.file": weights, "metric": "agreement"})


def _fresh(form: str, folder: Path) -> Settings:
    torch.manual_seed(0)
    module = getattr(importlib.import_module(kinds.__name__), form)()
    safetensors.torch.save_file(module.state_dict(), folder / "weights.safetensors")
    return load_settings(
        DIGITS / "params.yaml",
        {
            "model.file": str(folder / "weights.safetensors"),
            "model.factory": f"kinds:{form}",
            "model.code": [str(Path(kinds.__file__)), str(DIGITS / "data.py")],
            "metric": "agreement",
        },
    )


@pytest.mark.parametrize("name", RESHAPING)
@pytest.mark.parametrize("kind", KINDS)
def test_what_reshapes_leaves_a_network_that_runs_and_comes_back(
    kind: str, name: str, workshops: dict[str, Workshop]
) -> None:
    workshop, technique = workshops[kind], TECHNIQUES[name]
    if technique.why_not(workshop.bundle):
        pytest.skip("it says why it leaves this one alone")
    choices = technique.choices(workshop.bundle, 5.0)
    changed = [_changed(choices[place], workshop) for place in sorted({0, len(choices) // 2, len(choices) - 1})]
    reasons = [reason for reason in changed if reason]
    if (kind, name) in LEFT_ALONE:
        assert reasons == ["No channel can be removed."] * len(changed)
    else:
        assert len(reasons) < len(changed), f"nothing worked: {reasons}"


def _changed(config: Config, workshop: Workshop) -> str:
    """Why a config could not be applied; else the module runs, and is the same when it is made again."""
    images = tensors(workshop.bundle.split("validation").take(slice(0, 5)).inputs)
    try:
        made, again = (make_prefix((config,), workshop).module for _ in range(2))
    except TrialError as error:
        return error.what
    with torch.inference_mode():
        first, second = made(*images), again(*images)
    assert first.shape == (5, 10)
    assert torch.isfinite(first).all()
    torch.testing.assert_close(first, second)
    return ""


def test_layers_that_cannot_be_taken_apart_are_left_alone_and_named(
    workshops: dict[str, Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(channel_pruning, "emit", lambda _kind, **fields: told.append(fields))
    workshop = workshops["vision_transformer"]
    module = workshop.bundle.module()
    before = {name: layer.weight.shape for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    channel_pruning.prune(module, channel_pruning.ChannelPruningConfig(ratio=0.5, round_to=4), workshop)
    after = {name: layer.weight.shape for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    # One projection for query, key and value is split by a size that is written into the code.
    assert {f"blocks.{number}.attention.ask" for number in range(3)} <= set(told[0]["layers"])
    assert [after[name][0] for name in told[0]["layers"]] == [before[name][0] for name in told[0]["layers"]]
    assert after["blocks.0.mlp.0"][0] == before["blocks.0.mlp.0"][0] / 2


@pytest.mark.parametrize("name", QUANTISING)
@pytest.mark.parametrize("kind", KINDS)
def test_what_quantises_answers_as_before(kind: str, name: str, workshops: dict[str, Workshop], tmp_path: Path) -> None:
    workshop, technique = workshops[kind], TECHNIQUES[name]
    assert isinstance(technique, GraphTechnique)
    if technique.why_not(workshop.bundle):
        pytest.skip("it says why it leaves this one alone")
    config = technique.choices(workshop.bundle, 5.0)[0]
    try:
        model = make_files(Recipe(technique.target, (config,)), workshop, tmp_path)
    except TrialError as error:
        pytest.skip(f"left alone: {error.what}")
    split = workshop.bundle.split("validation")
    outputs = answers_of(model, tmp_path, split, threads=1)["logits"]
    reference = original_outputs(workshop.bundle, split)["logits"]
    assert np.isfinite(outputs).all()
    first, second = outputs.ravel(), reference.ravel()
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    assert cosine > LEAST_COSINE.get((kind, name), 0.99)


def test_of_a_transformer_the_last_choice_is_for_transformers(workshops: dict[str, Workshop]) -> None:
    found = {kind: nncf_int8.choices(workshops[kind].bundle, 5.0) for kind in ("vision_transformer", "depthwise")}
    assert [config.smooth for config in found["vision_transformer"]] == [False, False, True]
    assert [config.smooth for config in found["depthwise"]] == [False, False]
