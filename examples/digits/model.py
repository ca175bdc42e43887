"""A small residual network for 8x8 digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DigitsNet(nn.Module):
    """A 3x3 stem, one residual block from 32 to 64 channels at full resolution, a linear head.

    About 58 thousand parameters. Takes float32 [N, 1, 8, 8], returns the logits of the ten digits, [N, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn_stem = nn.BatchNorm2d(32)
        self.conv1 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.shortcut = nn.Conv2d(32, 64, 1)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.bn_stem(self.stem(images)))
        hidden = functional.relu(self.bn1(self.conv1(features)))
        features = functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(features))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))


def digits_net() -> nn.Module:
    """The network with fresh weights."""
    return DigitsNet()
