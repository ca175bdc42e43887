"""Weights between before and after: nearly all that was learnt, and least of what was known forgotten."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leanloop.bundle import Bundle, make_metric
from leanloop.core.errors import SettingsError
from leanloop.core.store import Store
from leanloop.optimize.apply import CHECKPOINT, keep_checkpoint, make_prefix
from leanloop.optimize.recipe import Recipe
from leanloop.optimize.techniques import Workshop
from leanloop.optimize.techniques.blending import BlendingConfig, Judged, blend, blending, choose, mixed, why_not
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.resume import ResumeConfig

ACCURACY = make_metric("accuracy", "classification")


def network(weight: float) -> nn.Module:
    layer = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        layer[0].weight.fill_(weight)
    layer[1].num_batches_tracked.fill_(int(weight))
    return layer.eval()


def test_weights_lie_on_the_line_and_counters_are_the_later_ones() -> None:
    before, after = network(2.0), network(4.0)
    found = mixed(before, after, 0.25)
    assert torch.equal(found[0].weight, torch.full((2, 1), 2.5))  # type: ignore[index]
    assert int(found[1].num_batches_tracked) == 4  # type: ignore[index]
    assert torch.equal(after[0].weight, torch.full((2, 1), 4.0)), "the ends are left as they are"  # type: ignore[index]


def test_of_those_that_keep_nearly_all_of_the_gain_the_one_that_forgets_least_is_taken() -> None:
    judged = [Judged(1.0, 0.90, 0.92, 0.012), Judged(0.7, 0.895, 0.93, 0.006), Judged(0.4, 0.80, 0.94, 0.001)]
    assert choose(judged, 0.70, 0.009, ACCURACY).share == 0.7


def test_where_it_would_be_refused_a_smaller_share_is_taken() -> None:
    judged = [Judged(1.0, 0.90, 0.91, 0.02), Judged(0.7, 0.895, 0.92, 0.012), Judged(0.4, 0.80, 0.93, 0.006)]
    assert choose(judged, 0.70, 0.009, ACCURACY).share == 0.4
    assert choose(judged, 0.70, 0.005, ACCURACY).share == 0.7, "nobody can be shown to keep what was known"


def test_what_gained_nothing_is_left_whole_for_the_gate_to_see() -> None:
    judged = [Judged(1.0, 0.60, 0.91, 0.02), Judged(0.4, 0.65, 0.93, 0.006)]
    assert choose(judged, 0.70, 0.009, ACCURACY).share == 1.0


def test_the_answers_on_validation_samples_decide() -> None:
    before, after = network(0.0), network(1.0)
    recent, truth = np.arange(400) >= 200, np.zeros(400, int)

    def answers_of(module: nn.Module) -> np.ndarray:
        """Recent samples are right from a share of a half on; golden ones get wrong beyond 0.6."""
        share = float(module[0].weight.detach()[0, 0])  # type: ignore[index]
        right = np.where(recent, share > 0.5, (share < 0.6) | (np.arange(400) % 4 > 0))
        return np.stack([right, ~right], 1).astype(np.float32)

    found, share = blend(before, after, answers_of, truth, recent, ACCURACY)
    assert share == 0.55
    assert torch.equal(found[0].weight, mixed(before, after, 0.55)[0].weight)  # type: ignore[index]
    assert blend(before, after, answers_of, truth, recent, ACCURACY, most=0.6)[1] == 0.55
    assert blend(before, after, answers_of, truth, np.ones(400, bool), ACCURACY)[1] == 1.0, "there is nothing to forget"


def test_a_resumed_student_is_blended_with_what_it_was(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = Recipe("onnxruntime", (ChannelPruningConfig(ratio=0.5),))
    folder = tmp_path / "bundle"
    shutil.copytree(workshop.bundle.folder, folder)
    make_prefix(pruned.torch, workshop)
    keep_checkpoint(pruned, workshop, folder)
    (folder / CHECKPOINT).rename(Bundle(folder).student)
    revised = replace(workshop, bundle=Bundle(folder), store=Store(str(tmp_path / "store")))
    assert why_not(revised.bundle) is None
    assert "no student" in (why_not(workshop.bundle) or "")

    before = make_prefix((ResumeConfig(),), revised).module
    after = copy.deepcopy(before)
    with torch.no_grad():
        for values in after.parameters():
            values.mul_(1.5)
    unchanged = blending(after, BlendingConfig(), revised).module
    assert unchanged is after, "without recent samples there is nothing to weigh against"
    recent = np.arange(len(revised.bundle.split("validation"))) % 2 == 0
    monkeypatch.setattr(revised.bundle, "fresh_rows", lambda split: recent)
    found = blending(after, BlendingConfig(most=0.5), revised).module
    first, last, blended = (next(iter(one.parameters())) for one in (before, after, found))
    shares = ((blended - first) / (last - first)).detach()
    assert shares.median() == pytest.approx(0.5, abs=0.11)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="most"):
        BlendingConfig(most=0.0)
