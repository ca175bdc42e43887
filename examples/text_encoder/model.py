"""A BERT encoder with mean pooling: Devlin et al. (2019), in the six-layer form of MiniLM, Wang et al. (2020).

Parameters have the names of the published weights. About 22.6 million of them, of which half are word embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WORDS, POSITIONS, WIDTH, HIDDEN, HEADS, LAYERS = 30_522, 512, 384, 1_536, 12, 6
EPSILON = 1e-12
_HIDDEN_FROM_ATTENTION = -1e4
"""Added to the score of padding. Enough for a softmax, and no number that INT8 or bf16 could choke on."""


class Embeddings(nn.Module):
    """Words, their positions, and the one token type that single sentences have."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(WORDS, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, words: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: words.shape[1]]
        return self.LayerNorm(self.word_embeddings(words) + places + self.token_type_embeddings.weight[0])


class Projections(nn.Module):
    """Queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))


class Output(nn.Module):
    """Back to the width, added to what came in, normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(hidden) + before)


class Attention(nn.Module):
    """Every token asks every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.self, self.output = Projections(), Output(WIDTH)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            project(tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project in (self.self.query, self.self.key, self.self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2), tokens)


class Intermediate(nn.Module):
    """The wide part of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, HIDDEN)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.gelu(self.dense(tokens))


class Layer(nn.Module):
    """Attention, then two matrix products per token."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = Attention(), Intermediate(), Output(HIDDEN)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = self.attention(tokens, mask)
        return self.output(self.intermediate(tokens), tokens)


class Encoder(nn.Module):
    """All layers, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            tokens = layer(tokens, mask)
        return tokens


class SentenceEncoder(nn.Module):
    """Token ids and their mask, int64 [N, T] each, to unit vectors, [N, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(), Encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = attention_mask.to(torch.float32)
        hidden = (1 - real)[:, None, None, :] * _HIDDEN_FROM_ATTENTION
        tokens = self.encoder(self.embeddings(input_ids), hidden)
        summed = (tokens * real[:, :, None]).sum(1)
        return functional.normalize(summed / real.sum(1, keepdim=True).clamp(min=1), dim=1)


def sentence_encoder() -> nn.Module:
    """The network with fresh weights."""
    return SentenceEncoder()
