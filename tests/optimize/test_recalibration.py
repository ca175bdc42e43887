"""Batch norms are seen anew after pruning: their statistics are those of what they really get."""

from __future__ import annotations

import torch
from torch import nn

from leanloop.bundle import tensors
from leanloop.optimize import Workshop
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig, prune, replay
from leanloop.optimize.techniques.recalibration import recalibrate


def test_statistics_are_the_averages_of_what_the_layer_gets(workshop: Workshop) -> None:
    module = workshop.bundle.module()
    prune(module, ChannelPruningConfig(ratio=0.5), workshop)
    seen: list[torch.Tensor] = []
    last = module.get_submodule("bn2")
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    calibration = workshop.bundle.split("calibration")
    with torch.inference_mode():
        module(*tensors(calibration.inputs))
    hook.remove()
    together = seen[0].transpose(0, 1).flatten(1)
    assert isinstance(last, nn.BatchNorm2d)
    assert last.running_mean is not None
    assert last.running_var is not None
    # Below it stand two other batch norms, which used their batches' own statistics while they were seen anew.
    torch.testing.assert_close(last.running_mean, together.mean(1), rtol=0.02, atol=0.02)
    torch.testing.assert_close(last.running_var, together.var(1), rtol=0.05, atol=0.02)


def test_a_pruned_network_is_more_right_for_it(workshop: Workshop) -> None:
    bundle, config = workshop.bundle, ChannelPruningConfig(ratio=0.5)
    anew, as_before = bundle.module(), bundle.module()
    replay(as_before, prune(anew, config, workshop), bundle)
    validation = bundle.split("validation")
    scores = [bundle.score(bundle.predict(module, validation), validation) for module in (anew, as_before)]
    assert scores[0] > scores[1] + 0.05


def test_modes_weights_and_momenta_stay(workshop: Workshop) -> None:
    module = workshop.bundle.module()
    momenta = {name: layer.momentum for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    weights = {name: value.clone() for name, value in module.named_parameters()}
    recalibrate(module, workshop.bundle)
    assert not any(layer.training for layer in module.modules())
    assert momenta == {
        name: layer.momentum for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)
    }
    torch.testing.assert_close(dict(module.named_parameters()), weights, rtol=0, atol=0)


def test_a_network_without_batch_norms_is_left_alone(workshop: Workshop) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    recalibrate(module, workshop.bundle)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
