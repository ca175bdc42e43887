"""Small networks of many kinds, for 8x8 images of digits; bundled by the tests as an owner's code."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Depthwise(nn.Module):
    """Depthwise separable convolutions with inverted residuals, as in MobileNet v2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(*[Inverted(16) for _ in range(2)])
        self.down = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.down(self.blocks(self.stem(images))).mean((2, 3)))


class Inverted(nn.Module):
    """Wide, depthwise, narrow, and around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU6(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False), nn.BatchNorm2d(2 * width),
            nn.ReLU6(), nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return images + self.body(images)


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


class Attention(nn.Module):
    """Multi-head self-attention over rows, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        samples, count, _ = tokens.shape
        query, key, value = (
            part.reshape(samples, count, self.heads, -1).transpose(1, 2) for part in self.ask(tokens).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.answer(mixed.transpose(1, 2).reshape(samples, count, self.width))


class Encoder(nn.Module):
    """A transformer block with pre-normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.attention = nn.LayerNorm(width), Attention(width, 4)
        self.between = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.before(tokens))
        return tokens + self.mlp(self.between(tokens))


class VisionTransformer(nn.Module):
    """Rows of the image are the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.place = nn.Parameter(torch.randn(1, 8, 16) * 0.02)
        self.blocks = nn.Sequential(Encoder(16), Encoder(16), Encoder(16))
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(images.squeeze(1)) + self.place).mean(1))


class Recurrent(nn.Module):
    """An LSTM over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(8, 24, batch_first=True)
        self.hidden = nn.Linear(24, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.memory(images.squeeze(1))[0][:, -1])))


def perceptron() -> nn.Module:
    """Three layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))


def linear() -> nn.Module:
    """One layer: nothing can be taken out of it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def depthwise() -> nn.Module:
    return Depthwise()


def grouped() -> nn.Module:
    return Grouped()


def branches() -> nn.Module:
    return Branches()


def shared() -> nn.Module:
    return Shared()


def vision_transformer() -> nn.Module:
    return VisionTransformer()


def recurrent() -> nn.Module:
    return Recurrent()
