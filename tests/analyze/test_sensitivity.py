"""Which layers can lose channels or bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from leanloop.analyze.graph import Graph, run_model
from leanloop.analyze.sensitivity import (
    Trial,
    input_ranges,
    least_channels,
    round_per_channel,
    sensitivities,
    treated_model,
    trials,
)
from leanloop.bundle import Bundle
from leanloop.core.settings import Settings

WEIGHTS = arrays(np.float32, (3, 4, 2), elements=st.floats(-10, 10, width=32))


def test_a_layer_whose_channels_all_matter_is_more_sensitive_than_a_redundant_one(
    uneven: tuple[Bundle, Settings],
) -> None:
    bundle, _ = uneven
    graph = Graph(bundle.weights)
    found = sensitivities(bundle, graph, trials(graph), seconds=60)
    pruned = {item.name: item for item in found if item.treatment == "prune_50"}
    assert pruned["redundant"].drop == 0
    assert pruned["fragile"].drop > 0.3
    assert pruned["fragile"].metric == pytest.approx(1 - pruned["fragile"].drop)
    assert "head" not in pruned  # its channels are the answers
    rounded = {item.name for item in found if item.treatment == "int8"}
    assert rounded == {"redundant", "fragile", "head"}


def test_int8_rounds_inputs_to_255_levels_between_the_extremes(uneven: tuple[Bundle, Settings]) -> None:
    bundle, _ = uneven
    graph = Graph(bundle.weights)
    layer = graph.weighted_layers[0]
    split = bundle.split("calibration")
    ranges = input_ranges(graph, [layer], split)
    treated = treated_model(graph, Trial(layer, "int8"), ranges)
    values = split.take(slice(0, 64)).inputs
    rounded = run_model(treated, values, ["redundant"])["redundant"][:, :8]
    step = split.inputs["x"][:128].max() / 255
    assert 0 < np.abs(rounded - values["x"]).max() <= step / 2 + 1e-3 * step
    np.testing.assert_allclose(rounded / step, np.round(rounded / step), atol=1e-3)


def test_trials_stop_when_time_is_up(uneven: tuple[Bundle, Settings]) -> None:
    bundle, _ = uneven
    graph = Graph(bundle.weights)
    assert sensitivities(bundle, graph, trials(graph), seconds=0) == ()
    assert trials(graph, order=["node_head"])[0].layer.name == "head"


@given(WEIGHTS, st.integers(0, 2))
def test_rounding_moves_a_weight_by_half_a_step_at_most(weight: np.ndarray, axis: int) -> None:
    rounded = round_per_channel(weight, axis)
    others = tuple(other for other in range(3) if other != axis)
    steps = np.abs(weight).max(axis=others, keepdims=True) / 127
    assert (np.abs(rounded - weight) <= steps * 0.5001 + 1e-30).all()
    np.testing.assert_allclose(round_per_channel(rounded, axis), rounded, rtol=1e-5, atol=1e-30)


@given(WEIGHTS, st.integers(0, 2))
def test_the_channels_to_go_are_the_half_with_the_least_norm(weight: np.ndarray, axis: int) -> None:
    gone = least_channels(weight, axis)
    norms = np.linalg.norm(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64), axis=1)
    kept = np.setdiff1d(np.arange(len(norms)), gone)
    assert len(gone) == len(norms) // 2
    assert norms[gone].max(initial=0) <= norms[kept].min() + 1e-12
