"""A student follows where its teacher looks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leanloop.bundle import tensors
from leanloop.core.errors import TrialError
from leanloop.optimize import Workshop
from leanloop.optimize.techniques import feature_distillation
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig, prune
from leanloop.optimize.techniques.feature_distillation import (
    FeatureDistillationConfig,
    Watched,
    attention_map,
    distil_features,
    mapped_layers,
    teacher_maps,
)


@given(st.integers(1, 3), st.integers(1, 40), st.integers(2, 30), st.integers(2, 30))
def test_maps_have_unit_length_and_no_channels(samples: int, channels: int, height: int, width: int) -> None:
    found = attention_map(torch.rand(samples, channels, height, width) + 0.1)
    assert found.shape == (samples, min(height, 14) * min(width, 14))
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * samples, abs=1e-5)


def test_more_channels_of_the_same_kind_change_nothing() -> None:
    features = torch.randn(2, 5, 7, 7)
    assert torch.allclose(attention_map(features), attention_map(features.repeat(1, 3, 1, 1)), atol=1e-6)
    tokens = torch.randn(2, 9, 4)
    assert attention_map(tokens).shape == (2, 9)


def test_the_last_layer_of_every_resolution_is_watched() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1)
    )
    assert mapped_layers(module, (torch.zeros(2, 1, 8, 8),)) == {(8, 8): "1", (4, 4): "2"}


def test_a_pruned_student_comes_to_look_where_the_teacher_does(workshop: Workshop) -> None:
    bundle = workshop.bundle
    distances = {}
    for beta in (None, 5.0):
        module = bundle.module()
        prune(module, ChannelPruningConfig(ratio=0.5), workshop)
        if beta is not None:
            distil_features(module, FeatureDistillationConfig(epochs=6, beta=beta), workshop)
        distances[beta] = _distance(module, workshop)
    assert distances[5.0] < 0.5 * distances[None]


def test_a_stranger_is_told_apart(workshop: Workshop) -> None:
    with pytest.raises(TrialError, match="no map or sequence of a resolution"):
        distil_features(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), FeatureDistillationConfig(), workshop)


def test_a_student_with_other_names_is_paired_by_resolution(workshop: Workshop) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip
    before = _looks_at(student, "1", workshop)
    distil_features(student, FeatureDistillationConfig(epochs=6, beta=5.0), workshop)
    assert _looks_at(student, "1", workshop) < before


def _looks_at(student: nn.Module, layer: str, workshop: Workshop) -> float:
    """How far a student's layer at full resolution looks elsewhere than the teacher."""
    images = tensors(workshop.bundle.split("train").take(slice(0, 200)).inputs)
    teacher = workshop.bundle.module()
    theirs = mapped_layers(teacher, images)[(8, 8)]
    found = []
    for module, name in ((student, layer), (teacher, theirs)):
        with Watched(module, [name]) as seen, torch.no_grad():
            module.eval()(*images)
            found.append(seen.maps()[name])
    return float((found[0] - found[1]).square().sum(1).mean())


def _distance(module: nn.Module, workshop: Workshop) -> float:
    """Between the maps of a student and of its teacher, on training samples."""
    maps = teacher_maps(workshop)
    inputs = tensors(workshop.bundle.split("train").take(slice(0, 200)).inputs)
    with Watched(module, list(maps)) as seen, torch.no_grad():
        module(*inputs)
        mine = seen.maps()
    return sum(
        float((mine[name] - torch.from_numpy(values[:200]).float()).square().sum(1).mean())
        for name, values in maps.items()
    )


def test_without_maps_it_says_why(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_distillation, "mapped_layers", lambda *_: {})
    reason = feature_distillation.why_not(workshop.bundle)
    assert reason is not None
    assert "no layer gives a map" in reason


def test_a_sequence_is_watched_where_its_first_axis_counts_samples() -> None:
    """A recurrent layer gives it with its state; one that reads step by step has no map of a sample."""

    class Reader(nn.Module):
        def __init__(self, batch_first: bool) -> None:
            super().__init__()
            self.memory = nn.LSTM(8, 4, batch_first=batch_first)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.squeeze(1) if self.memory.batch_first else x.squeeze(1).transpose(0, 1)
            return self.memory(rows)[0].sum()  # type: ignore[no-any-return]

    images = (torch.zeros(2, 1, 5, 8),)
    assert mapped_layers(Reader(batch_first=True), images) == {(5,): "memory"}
    assert mapped_layers(Reader(batch_first=False), images) == {}
    with Watched(reader := Reader(batch_first=True), ["memory"]) as seen:
        reader(*images)
        assert seen.maps()["memory"].shape == (2, 5)
