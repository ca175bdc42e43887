"""Weights that become zero, and stay zero: anywhere, or two of every four."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from leanloop.core.errors import TrialError
from leanloop.optimize import Workshop
from leanloop.optimize.apply import make_prefix
from leanloop.optimize.techniques import semi_structured_pruning as semi
from leanloop.optimize.techniques import unstructured_pruning as unstructured
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.optimize.techniques.masks import Masks, weights_of, zero_share
from leanloop.optimize.techniques.quantisation_aware_training import QuantisationAwareTrainingConfig

SEEDS, SPARSITIES = st.integers(0, 2**16), st.floats(0, 0.99)


def _weights(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"stem": (8, 3, 3, 3), "wide": (16, 8, 1, 1), "head": (10, 16)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@settings(deadline=None, max_examples=30)
@given(SEEDS, SPARSITIES)
def test_each_layer_loses_the_same_share_and_its_smallest(seed: int, sparsity: float) -> None:
    weights = _weights(seed)
    for name, mask in unstructured.largest_of_each(weights, sparsity).items():
        sizes = weights[name].abs()
        assert int((~mask).sum()) == round(sparsity * mask.numel())
        if mask.any() and not mask.all():
            assert sizes[mask].min() >= sizes[~mask].max()


@settings(deadline=None, max_examples=30)
@given(SEEDS, SPARSITIES)
@example(0, 0.984375)
def test_all_layers_together_lose_the_share_and_none_its_last_weight(seed: int, sparsity: float) -> None:
    weights = _weights(seed)
    weights["wide"] *= 1e-3
    masks = unstructured.largest_of_all(weights, sparsity)
    lost, total = (sum(int(f(mask)) for mask in masks.values()) for f in (lambda m: (~m).sum(), lambda m: m.numel()))
    # A layer that would have lost its last weight keeps it beyond the share: as many as have one alone, at most.
    alone = sum(int(mask.sum()) == 1 for mask in masks.values())
    assert 0 <= round(sparsity * total) - lost <= alone
    assert all(mask.any() for mask in masks.values())
    # The layer of small weights is emptied first.
    assert int(masks["wide"].sum()) == 1 or masks["wide"].float().mean() <= masks["head"].float().mean()


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_of_every_four_inputs_the_two_largest_stay(seed: int) -> None:
    weights = _weights(seed)
    masks = semi.two_of_four(weights)
    assert set(masks) == {"wide", "head"}
    for name, mask in masks.items():
        groups = mask.movedim(1, -1).reshape(-1, 4)
        assert (groups.sum(1) == 2).all()
        sizes = weights[name].abs().movedim(1, -1).reshape(-1, 4)
        assert (sizes.where(groups, torch.inf).min(1).values >= sizes.where(~groups, -torch.inf).max(1).values).all()


def test_zeros_come_little_by_little_and_hold() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 4))
    masks = Masks(module, unstructured.largest_of_each, 0.8, gradual=True)
    assert zero_share(module) == 0
    shares = []
    for step in range(1, 101):
        with torch.no_grad():
            for weight in weights_of(module).values():
                weight.add_(torch.randn_like(weight), alpha=0.01)
        masks.after_step(step / 100)
        shares.append(zero_share(module))
    assert all(earlier <= later + 0.01 for earlier, later in itertools.pairwise(shares))
    assert 0.3 < shares[20] < 0.78
    assert shares[59:] == pytest.approx([0.8] * 41, abs=0.005)


def test_a_shared_weight_is_counted_once() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[1].weight = module[0].weight
    assert list(weights_of(module)) == ["0"]


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_sparse_network_stays_right(workshop: Workshop, scope: str) -> None:
    module, bundle = workshop.bundle.module(), workshop.bundle
    config = unstructured.UnstructuredPruningConfig(sparsity=0.7, scope=scope, epochs=8)
    unstructured.sparsify(module, config, workshop)
    assert zero_share(module) == pytest.approx(0.7, abs=0.002)
    validation = bundle.split("validation")
    original, sparse = (bundle.score(bundle.predict(one, validation), validation) for one in (bundle.module(), module))
    assert sparse > original - 0.03


def test_a_network_of_two_in_four_stays_right(workshop: Workshop) -> None:
    module, bundle = workshop.bundle.module(), workshop.bundle
    semi.sparsify(module, semi.SemiStructuredPruningConfig(epochs=4), workshop)
    for weight in weights_of(module).values():
        if weight.shape[1] % 4 == 0:
            zeros = (weight.detach().movedim(1, -1).reshape(-1, 4) == 0).sum(1)
            assert np.isin(zeros.numpy(), (2, 3, 4)).all()
    validation = bundle.split("validation")
    assert bundle.score(bundle.predict(module, validation), validation) > 0.93


def test_where_inputs_do_not_come_in_fours_it_says_so(workshop: Workshop) -> None:
    with pytest.raises(TrialError, match="multiple of four"):
        semi.sparsify(nn.Sequential(nn.Linear(3, 5)), semi.SemiStructuredPruningConfig(), workshop)


@pytest.mark.parametrize("after", [DistillationConfig(epochs=2), QuantisationAwareTrainingConfig(epochs=2)])
def test_later_trainings_keep_the_zeros(after: DistillationConfig, workshop: Workshop) -> None:
    sparse = unstructured.UnstructuredPruningConfig(epochs=2, sparsity=0.8)
    module = make_prefix((sparse, after), workshop).module
    assert zero_share(module) >= 0.79
    plain = make_prefix((sparse,), workshop).module
    pairs = zip(weights_of(module).values(), weights_of(plain).values(), strict=True)
    assert any(not torch.equal(trained, before) for trained, before in pairs)
