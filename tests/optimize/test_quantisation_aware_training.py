"""Training under simulated INT8: what is simulated, what is left of it, and what it is worth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leanloop.optimize import Recipe, Workshop
from leanloop.optimize.apply import make_files
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config, integer_share
from leanloop.optimize.techniques.quantisation_aware_training import (
    QuantisationAwareTrainingConfig,
    Simulated,
    train_quantised,
)
from leanloop.runtime import answers_of


@given(st.integers(0, 2**16), st.floats(1e-3, 1e3))
def test_weights_have_255_levels_per_channel_and_inputs_256(seed: int, size: float) -> None:
    torch.manual_seed(seed)
    layer, inputs = nn.Linear(300, 3), size * torch.randn(64, 300)
    seen: list[torch.Tensor] = []
    with Simulated(nn.Sequential(layer)):
        layer.register_forward_hook(lambda _layer, given, _result: seen.append(given[0]))
        layer(inputs)
        weight = layer.weight.detach()
    for row, exact in zip(weight, layer.weight.detach(), strict=True):
        step = float(exact.abs().max()) / 127
        levels = row / step
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        assert (row - exact).abs().max() <= 0.501 * step
    step = float(inputs.max() - inputs.min()) / 255
    assert seen[0].unique().numel() <= 256
    assert (seen[0] - inputs).abs().max() <= 1.01 * step


def test_zero_stays_zero_and_the_module_comes_back() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with Simulated(module):
        assert torch.equal(module[0](torch.zeros(1, 1, 8, 8)), module[0](torch.zeros(1, 1, 8, 8)))
        assert module.state_dict().keys() != before.keys()
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not module[0]._forward_pre_hooks


def test_gradients_go_through() -> None:
    layer = nn.Linear(8, 2)
    with Simulated(nn.Sequential(layer)):
        layer(torch.randn(4, 8)).square().sum().backward()  # type: ignore[no-untyped-call]
        gradient = layer.parametrizations.weight.original.grad  # type: ignore[union-attr]
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_trained_network_keeps_its_accuracy_in_integers(workshop: Workshop, tmp_path: Path) -> None:
    recipe = Recipe("onnxruntime", (QuantisationAwareTrainingConfig(epochs=4), OrtStaticInt8Config(per_channel=False)))
    model = make_files(recipe, workshop, tmp_path)
    bundle, validation = workshop.bundle, workshop.bundle.split("validation")
    assert integer_share(tmp_path / "model.onnx") == 1.0
    assert bundle.score(answers_of(model, tmp_path, validation, threads=1), validation) > 0.95


def test_weights_come_nearer_to_what_integers_can_say(workshop: Workshop) -> None:
    """With weights spoiled so that rounding hurts, training under the rounding wins back what it costs."""
    bundle, validation = workshop.bundle, workshop.bundle.split("validation")
    module = bundle.module()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.view(layer.out_channels, -1)[:, 0] *= 30
    rounded = _rounded_score(module, workshop)
    train_quantised(module, QuantisationAwareTrainingConfig(epochs=12, learning_rate=0.02), workshop)
    assert _rounded_score(module, workshop) > rounded + 0.1
    assert bundle.score(bundle.predict(module, validation), validation) == pytest.approx(
        _rounded_score(module, workshop), abs=0.03
    )


def _rounded_score(module: nn.Module, workshop: Workshop) -> float:
    validation = workshop.bundle.split("validation")
    with Simulated(module):
        return workshop.bundle.score(workshop.bundle.predict(module, validation), validation)
