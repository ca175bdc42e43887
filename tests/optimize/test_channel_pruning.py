from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch_pruning
from torch import nn

from leanloop.bundle import Bundle, Split, pack
from leanloop.core.errors import TrialError
from leanloop.optimize import Recipe, Workshop, rebuild
from leanloop.optimize.apply import keep_checkpoint, make_prefix
from leanloop.optimize.candidate import finish_one
from leanloop.optimize.plan import Job
from leanloop.optimize.techniques import channel_pruning
from leanloop.optimize.techniques.channel_groups import kept_channels, output_layers
from leanloop.optimize.techniques.channel_pruning import (
    ChannelPruningConfig,
    gather_gradients,
    prune,
    replay,
    taylor_samples,
    whole_network,
)
from tests.conftest import Project

IMAGES = torch.randn(4, 1, 8, 8)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9375])
@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_the_history_rebuilds_the_pruned_module(ratio: float, importance: str, workshop: Workshop) -> None:
    pruned, fresh = workshop.bundle.module(), workshop.bundle.module()
    config = ChannelPruningConfig(ratio=ratio, importance=importance)
    history = json.loads(json.dumps(prune(pruned, config, workshop)))
    replay(fresh, history, workshop.bundle)
    assert _parameters(pruned) < (1 - ratio / 2) * _parameters(workshop.bundle.module())
    assert {name: tensor.shape for name, tensor in fresh.state_dict().items()} == {
        name: tensor.shape for name, tensor in pruned.state_dict().items()
    }
    # Pruned alike, the very weights that were kept are the same, too.
    _same_weights(fresh, pruned)


def test_channel_counts_stay_round_and_outputs_stay(workshop: Workshop) -> None:
    module = workshop.bundle.module()
    prune(module, ChannelPruningConfig(ratio=0.6, round_to=8), workshop)
    widths = {layer.out_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)
    assert module(IMAGES).shape == (4, 10)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@pytest.mark.parametrize("steps", [1, 3])
def test_of_the_whole_network_the_least_important_channels_go(importance: str, steps: int, workshop: Workshop) -> None:
    """Layers lose unequal shares, and the same weights are left after a replay."""
    pruned, fresh, original = (workshop.bundle.module() for _ in range(3))
    config = ChannelPruningConfig(ratio=0.4, scope="global", importance=importance, steps=steps, round_to=2)
    history = json.loads(json.dumps(prune(pruned, config, workshop)))
    replay(fresh, history, workshop.bundle)
    _same_weights(fresh, pruned)
    before, after = (
        {name: layer.out_channels for name, layer in one.named_modules() if isinstance(layer, nn.Conv2d)}
        for one in (original, pruned)
    )
    shares = {after[name] / before[name] for name in before}
    assert len(shares) > 1
    assert min(shares) >= 0.1
    assert all(width % 2 == 0 for width in after.values())
    assert 0.35 < sum(after.values()) / sum(before.values()) < 0.75


def test_a_classifier_of_one_score_is_pruned_by_what_the_loss_would_miss(
    project: Project, workshop: Workshop, tmp_path: Path
) -> None:
    """Its outputs are [N, 1], the score of the second of two classes; channels that the answer ignores go first."""
    code, data = project.folder / "model.py", project.folder / "data.py"
    code.write_text(code.read_text().replace("nn.Linear(16, 3)", "nn.Linear(16, 1)"))
    data.write_text(data.read_text().replace(" + (x[:, 0] > 1).long()", ""))
    weights = project.net().state_dict()
    weights["head.weight"] = weights["head.weight"][:1].clone()
    weights["head.bias"] = weights["head.bias"][:1].clone()
    weights["head.weight"][:, ::2] = 0.0
    safetensors.torch.save_file(weights, project.folder / "tiny.safetensors")
    pack(project.settings, project.folder, tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    module = bundle.module()
    assert bundle.manifest.task == "classification"
    (ladder,) = whole_network(bundle, 5.0).values()
    prune(module, replace(ladder[3], round_to=1, ratio=0.5), Workshop(bundle, workshop.store, 1))
    assert module(torch.zeros(2, 6)).shape == (2, 1)
    torch.testing.assert_close(module.head.weight.data, weights["head.weight"][:, 1::2])  # type: ignore[union-attr]


def test_every_class_has_a_say_where_samples_are_sorted_by_class() -> None:
    labels = np.repeat(np.arange(10), 400)
    split = Split("train", {"x": np.arange(4000, dtype=np.float32)}, labels)
    first, again = taylor_samples(split), taylor_samples(split)
    assert first.targets is not None
    assert set(first.targets) == set(range(10))
    assert len(first) == len(np.unique(first.inputs["x"])) == 512
    np.testing.assert_array_equal(first.inputs["x"], again.inputs["x"])
    np.testing.assert_array_equal(labels[first.inputs["x"].astype(int)], first.targets)
    assert len(taylor_samples(split.take(slice(0, 100)))) == 100


def test_gradients_are_gathered_in_pieces(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 512 samples at once take 898 MiB in each worker on the residual CNN of Fashion-MNIST, in pieces 174 MiB."""
    whole, pieces, sizes = workshop.bundle.module(), workshop.bundle.module(), list[int]()
    pieces.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    gather_gradients(pieces, workshop.bundle)
    monkeypatch.setattr(channel_pruning, "_TAYLOR_BATCH", sum(sizes))
    gather_gradients(whole, workshop.bundle)
    assert len(sizes) > 1
    assert max(sizes) == 64
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5)


def test_iterative_pruning_ends_at_the_same_widths(workshop: Workshop) -> None:
    once, thrice = workshop.bundle.module(), workshop.bundle.module()
    prune(once, ChannelPruningConfig(ratio=0.5), workshop)
    prune(thrice, ChannelPruningConfig(ratio=0.5, steps=3, importance="taylor"), workshop)
    assert [value.shape for value in once.state_dict().values()] == [
        value.shape for value in thrice.state_dict().values()
    ]


def test_protected_layers_keep_their_channels(workshop: Workshop) -> None:
    module = workshop.bundle.module()
    convolutions = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    inner = next(name for name in convolutions if name.endswith("conv1"))
    before = convolutions[inner].out_channels
    prune(module, ChannelPruningConfig(ratio=0.5, protect=inner), workshop)
    assert convolutions[inner].out_channels == before
    assert any(layer.out_channels < 0.6 * _original(workshop, name) for name, layer in convolutions.items())
    with pytest.raises(TrialError, match="no such layers"):
        prune(workshop.bundle.module(), ChannelPruningConfig(protect="nowhere"), workshop)


def _original(workshop: Workshop, name: str) -> int:
    return int(workshop.bundle.module().get_submodule(name).out_channels)  # type: ignore[arg-type]


def test_pruners_do_not_leak_into_each_other(workshop: Workshop) -> None:
    prune(workshop.bundle.module(), ChannelPruningConfig(), workshop)
    defaults = inspect.signature(torch_pruning.pruner.BasePruner.__init__).parameters
    for name in ("in_channel_groups", "out_channel_groups", "num_heads"):
        assert defaults[name].default == {}, f"{name} holds another model's modules"


def test_layers_that_make_the_output_are_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.skip = nn.Conv2d(1, 8, 1)
            self.out = nn.Conv2d(8, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(self.out(self.conv(x) + self.skip(x))))

    net = Net()
    graph = torch_pruning.DependencyGraph().build_dependency(net, IMAGES)
    assert output_layers(net, graph) == [net.out]


@pytest.mark.parametrize("scale", [4, 8])
def test_grouped_channels_keep_one_of_each_group_at_the_strongest_ratio(scale: int, workshop: Workshop) -> None:
    """Torch-Pruning takes nothing at all where every channel of a group would go."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4 * scale, 3, padding=1)
            self.norm = nn.GroupNorm(4, 4 * scale)
            self.grouped = nn.Conv2d(4 * scale, 8 * scale, 3, padding=1, groups=4)
            self.head = nn.Linear(8 * scale, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.grouped(self.norm(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]

    widths = []
    for ratio in (0.5, 0.75, 0.9375):
        module = Net()
        prune(module, ChannelPruningConfig(ratio=ratio, round_to=4), workshop)
        assert module(IMAGES).shape == (4, 10)
        widths.append((module.stem.out_channels, module.grouped.out_channels))
    assert widths == [(2 * scale, 4 * scale), (scale, 2 * scale), (4, 4)]


def test_a_network_of_output_layers_alone_is_left_alone(workshop: Workshop) -> None:
    with pytest.raises(TrialError, match="every layer gives the model's outputs"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ChannelPruningConfig(), workshop)


def test_nothing_to_remove_is_said(workshop: Workshop) -> None:
    with pytest.raises(TrialError, match="No channel"):
        prune(workshop.bundle.module(), ChannelPruningConfig(ratio=0.1, round_to=32), workshop)


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "expected"),
    [(32, 0.5, 8, 16), (32, 0.6, 8, 16), (32, 0.75, 8, 8), (32, 0.9375, 8, 2), (64, 0.6, 8, 24), (3, 0.9, 4, 1)],
)
def test_a_layer_never_loses_all_its_channels(width: int, ratio: float, round_to: int, expected: int) -> None:
    assert kept_channels(width, ratio, round_to) == expected


def test_a_forward_with_sizes_written_into_it_is_refused(project: Project, workshop: Workshop, tmp_path: Path) -> None:
    model = project.folder / "model.py"
    model.write_text(model.read_text().replace("return self.head(torch", "return self.head(torch.zeros(1, 16) + torch"))
    pack(project.settings, project.folder, tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    with pytest.raises(TrialError, match="does not run"):
        prune(bundle.module(), ChannelPruningConfig(round_to=1), Workshop(bundle, workshop.store, 1))


def test_a_candidate_gives_its_module_back(workshop: Workshop, tmp_path: Path) -> None:
    recipe = Recipe("onnxruntime", (ChannelPruningConfig(ratio=0.25),))
    job = Job.model_validate(
        {
            "bundle": str(workshop.bundle.folder),
            "store": workshop.store.url,
            "goal": {},
            "threads": 1,
            "trial": 3,
            "folder": str(tmp_path),
        }
    )
    row = finish_one(recipe, job, workshop)
    folder = tmp_path / "candidate"
    assert workshop.store.get_folder(f"candidates/{row.candidate_id}", folder)
    expected = make_prefix(recipe.torch, workshop).module(IMAGES)
    torch.testing.assert_close(rebuild(folder, workshop.bundle)(IMAGES), expected)
    assert not list(folder.rglob("*.p*k*l*")), "a checkpoint must not need unpickling"
    keep_checkpoint(recipe, workshop, tmp_path / "again")
    assert sorted(file.name for file in (tmp_path / "again" / "checkpoint").iterdir()) == [
        "cost.json",
        "shapes.json",
        "weights.safetensors",
    ]


def _same_weights(one: nn.Module, other: nn.Module) -> None:
    """Statistics of batch norms are seen anew after pruning, and travel with the weights that are stored."""
    torch.testing.assert_close(dict(one.named_parameters()), dict(other.named_parameters()), rtol=0, atol=0)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
