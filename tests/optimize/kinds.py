"""Forms that are hard to prune, for 8x8 images of digits; bundled by the tests as an owner's code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Grouped(nn.Module):
    """Convolutions in four groups, as in ResNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.mixed = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.stem(images))
        return self.head((hidden + self.mixed(torch.relu(self.grouped(hidden)))).mean((2, 3)))


class Branches(nn.Module):
    """Three branches that are concatenated, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.branches = nn.ModuleList(
            [nn.Conv2d(12, width, size, padding=size // 2) for width, size in ((8, 1), (12, 3), (4, 5))]
        )
        self.head = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.stem(images))
        return self.head(torch.relu(torch.cat([branch(hidden) for branch in self.branches], 1)).mean((2, 3)))


class Shared(nn.Module):
    """One layer that is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.again = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.first(images.flatten(1)))
        for _ in range(3):
            hidden = torch.relu(self.again(hidden))
        return self.head(hidden)


class Normalised(nn.Module):
    """Answers are scaled to one length, as embeddings are: the exporter makes an Expand of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return 4 * functional.normalize(self.head(torch.relu(self.first(images.flatten(1)))), dim=1)


def perceptron() -> nn.Module:
    """Three layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))


def grouped() -> nn.Module:
    return Grouped()


def branches() -> nn.Module:
    return Branches()


def shared() -> nn.Module:
    return Shared()


def normalised() -> nn.Module:
    """See `Normalised`."""
    return Normalised()
