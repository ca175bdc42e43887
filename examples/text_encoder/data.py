"""Real English sentences, the help texts that come with Python, as token ids of BERT's vocabulary.

There is nothing to train on and there are no labels: the encoder is optimised by post-training techniques, and is to
answer as before.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch.utils.data import TensorDataset

TOKENS = 32
"""Longer sentences are cut, shorter ones padded."""

SIZES = {"calibration": 200, "validation": 400, "test": 800}
_LEAST_WORDS = 6
_UNKNOWN, _BEGIN, _END, _PADDING = "[UNK]", "[CLS]", "[SEP]", "[PAD]"


def load(split: str, root: Path) -> TensorDataset | None:
    """One split as (ids, mask): int64 [32] each; none for ``train``.

    Args:
        split: ``train``, ``calibration``, ``validation`` or ``test``.
        root: The folder that holds ``vocab.txt``.
    """
    if split == "train":
        return None
    if split not in SIZES:
        raise ValueError(f"split {split!r} is not one of train, {', '.join(SIZES)}")
    begin = 0
    for name, size in SIZES.items():
        if name == split:
            break
        begin += size
    vocabulary = read_vocabulary(root / "vocab.txt")
    chosen = sentences()[begin : begin + SIZES[split]]
    ids = torch.tensor([encode(text, vocabulary) for text in chosen], dtype=torch.int64)
    return TensorDataset(ids, (ids != vocabulary[_PADDING]).to(torch.int64))


@lru_cache(maxsize=1)
def sentences() -> list[str]:
    """All different sentences of the help texts in an order that a seed draws."""
    prose = " ".join(re.sub(r"\s+", " ", text) for _, text in sorted(topics.items()))
    found = dict.fromkeys(
        sentence.strip()
        for sentence in re.split(r"(?<=[.:?!]) ", prose)
        if len(sentence.split()) >= _LEAST_WORDS and "|" not in sentence
    )
    texts = list(found)
    return [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]


def read_vocabulary(file: Path) -> dict[str, int]:
    """Piece of a word -> id; one piece per line."""
    return {piece: number for number, piece in enumerate(file.read_text(encoding="utf-8").splitlines())}


def encode(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Ids of a text's pieces, `TOKENS` of them."""
    pieces = [piece for word in words(text) for piece in pieces_of(word, vocabulary)][: TOKENS - 2]
    padded = [_BEGIN, *pieces, _END, *[_PADDING] * (TOKENS - 2 - len(pieces))]
    return [vocabulary[piece] for piece in padded]


def words(text: str) -> Iterator[str]:
    """In lower case, without accents; every sign is a word of its own."""
    plain = "".join(sign for sign in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(sign) != "Mn")
    return (match.group() for match in re.finditer(r"[^\W_]+|[^\w\s]|_", plain))


def pieces_of(word: str, vocabulary: dict[str, int]) -> list[str]:
    """WordPiece: the longest known beginning, then the longest known continuation, and so on."""
    pieces: list[str] = []
    begin = 0
    while begin < len(word):
        end = len(word)
        prefix = "##" if begin else ""
        while end > begin and prefix + word[begin:end] not in vocabulary:
            end -= 1
        if end == begin:
            return [_UNKNOWN]
        pieces.append(prefix + word[begin:end])
        begin = end
    return pieces
