"""Metrics without labels: what they compare with is the original's own outputs."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanloop.bundle import make_metric

COSINE = make_metric("cosine", "regression")

embeddings = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 8)),
    elements=st.floats(0.125, 8, width=32),
)


@given(embeddings, st.floats(0.01, 100))
def test_cosine_asks_for_the_direction_only(reference: np.ndarray, scale: float) -> None:
    assert COSINE.score(reference * scale, reference) == pytest.approx(1.0, abs=1e-6)
    assert COSINE.score(-reference, reference) == pytest.approx(-1.0, abs=1e-6)


def test_cosine_is_the_mean_over_samples() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 2.0]])
    turned = np.array([[0.0, 3.0], [0.0, 1.0]])
    assert COSINE.score(turned, reference) == pytest.approx(0.5)
    assert COSINE.higher_is_better
    assert not COSINE.needs_labels


def test_a_sample_without_length_counts_as_wrong() -> None:
    assert COSINE.score(np.zeros((1, 3)), np.ones((1, 3))) == 0.0
