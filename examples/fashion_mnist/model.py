"""Classifiers for Fashion-MNIST: a small residual network, a narrow one that it can teach, and a multilayer perceptron.

All take float32 images of shape [N, 1, 28, 28] and return the logits of the ten classes, [N, 10].
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """The basic block of He et al., "Deep Residual Learning for Image Recognition" (2016).

    Two 3x3 convolutions; the shortcut is a strided 1x1 convolution where the shape changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class ResidualNet(nn.Module):
    """A 3x3 stem, one residual block per stage, and a linear head on the average of each channel."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stages = nn.Sequential(ResidualBlock(widths[0], widths[0], stride=1))
        for narrow, wide in itertools.pairwise(widths):
            self.stages.append(ResidualBlock(narrow, wide, stride=2))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stages(self.stem(images))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))


def residual_cnn() -> nn.Module:
    """Three stages of 32, 64 and 128 channels: about 0.31 million parameters."""
    return ResidualNet(widths=(32, 64, 128), classes=10)


def narrow_cnn(first: int = 16, second: int = 24, third: int = 40) -> nn.Module:
    """Five 3x3 convolutions without shortcuts, and a head that sees a 3x3 grid of averages.

    So shallow a network learns without shortcuts, which cost layers. And clothes lie alike: where something is seen
    tells what it is, which the average of a whole channel hides.

    Args:
        first: Channels at full resolution.
        second: Channels at half of it.
        third: Channels at a quarter.
    """
    return nn.Sequential(
        _convolution(1, first, stride=1),
        _convolution(first, second, stride=2),
        _convolution(second, second, stride=1),
        _convolution(second, third, stride=2),
        _convolution(third, third, stride=1),
        nn.AvgPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(9 * third, 10),
    )


def _convolution(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def mlp() -> nn.Module:
    """784-256-128-10 with ReLU: about 0.24 million parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
