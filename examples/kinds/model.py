"""Networks of other kinds than the residual one, for the same 8x8 digits: each the smallest that shows its kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 1_000
"""That ``features.py`` makes of an image."""


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


def depthwise() -> nn.Module:
    """Depthwise separable convolutions: about 5 thousand parameters."""
    return Depthwise()


def vision_transformer() -> nn.Module:
    """Three transformer blocks over the image's rows: about 7 thousand parameters."""
    return VisionTransformer()


def recurrent() -> nn.Module:
    """An LSTM that reads the image row by row: about 4 thousand parameters."""
    return Recurrent()


def linear() -> nn.Module:
    """One layer on a thousand features; teacher and student alike, since nothing can be taken out of it."""
    return nn.Sequential(nn.Linear(FEATURES, 10))


def wide() -> nn.Module:
    """A thousand features, as many hidden units, ten classes: a million parameters, far more than the task needs."""
    return nn.Sequential(nn.Linear(FEATURES, 1_000), nn.ReLU(), nn.Linear(1_000, 10))
