"""Whole blocks that can be left out: which they are, which is missed least, and what is left runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leanloop.core.errors import SettingsError, TrialError
from leanloop.optimize import TECHNIQUES, Workshop
from leanloop.optimize.techniques import block_removal
from leanloop.optimize.techniques.block_removal import BlockRemovalConfig, rank_blocks, removable_blocks


class Residual(nn.Module):
    """``x + scale * f(x)``; wider outputs where asked."""

    def __init__(self, width: int, out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, out))
        self.widen = nn.Linear(width, out) if out != width else nn.Identity()
        self.scale = scale

    def forward(self, values: Tensor) -> Tensor:
        return self.widen(values) + self.scale * self.inner(values)


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    stack = nn.Sequential(
        Residual(6, 6, 1.0), Residual(6, 6, 0.01), Residual(6, 8), nn.ModuleDict({"no": nn.Linear(8, 8)})["no"],
        Residual(8, 8, 0.1),
    )  # fmt: skip
    return nn.Sequential(nn.Linear(4, 6), stack, nn.Linear(8, 3))


INPUTS = (torch.randn(5, 4, generator=torch.Generator().manual_seed(1)),)


def test_blocks_are_what_keeps_its_shape_and_has_layers(network: nn.Sequential) -> None:
    assert removable_blocks(network, INPUTS) == ["1.0", "1.1", "1.4"]


def test_the_least_missed_goes_first_and_the_network_stays_as_it_was(network: nn.Sequential) -> None:
    before = network(*INPUTS)
    assert rank_blocks(network, INPUTS) == ["1.1", "1.4", "1.0"]
    assert torch.equal(network(*INPUTS), before)


def test_a_block_that_is_called_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Residual(4, 4), Residual(4, 4)])

        def forward(self, values: Tensor) -> Tensor:
            return self.blocks[0](self.blocks[1](self.blocks[0](values)))

    assert removable_blocks(Twice(), INPUTS) == ["blocks.1"]


def test_what_cannot_go_is_named(workshop: Workshop) -> None:
    with pytest.raises(TrialError, match=r"(?s)cannot be left out.*head"):
        block_removal.remove(workshop.bundle.module(), BlockRemovalConfig(blocks="head"), workshop)
    with pytest.raises(SettingsError, match="blocks"):
        BlockRemovalConfig(blocks="a,a")


def test_a_network_without_such_blocks_says_so(workshop: Workshop) -> None:
    reason = TECHNIQUES["block_removal"].why_not(workshop.bundle)
    assert reason is not None
    assert "no block" in reason
