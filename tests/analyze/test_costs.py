"""Parameters, MACs and bytes, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from leanloop.analyze.cost import Cost, timed
from leanloop.analyze.graph import Graph, macs
from leanloop.analyze.module import module_costs, module_times, peak_activation_bytes
from leanloop.benchmark.latency import batch_of
from leanloop.bundle import Bundle
from tests.analyze.conftest import chain


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).eval()


def test_a_convolution_and_a_linear_layer() -> None:
    image = {"x": np.zeros((1, 3, 6, 6), np.float32)}
    convolution, relu, flatten, linear = module_costs(small_cnn(), image)
    assert (convolution.parameters, convolution.macs) == (8 * 3 * 9, 8 * 36 * 3 * 9)
    assert convolution.weight_bytes == 8 * 3 * 9 * 4
    assert convolution.output_shape == (1, 8, 6, 6)
    assert convolution.activation_bytes == relu.activation_bytes == 8 * 36 * 4
    assert (linear.parameters, linear.macs) == (8 * 36 * 5 + 5, 8 * 36 * 5)
    assert (relu.macs, flatten.macs, relu.parameters) == (0, 0, 0)


def test_the_peak_holds_the_input_and_the_two_largest_neighbours() -> None:
    image = {"x": np.zeros((1, 3, 6, 6), np.float32)}
    assert peak_activation_bytes(small_cnn(), image) == 4 * (3 * 36 + 8 * 36 + 8 * 36)


def test_a_multilayer_perceptron_counts_a_shared_layer_once_by_weight_and_twice_by_work() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(torch.relu(self.inner(x)))) @ torch.ones(2, 4)

    costs = {cost.name: cost for cost in module_costs(Tied().eval(), {"x": np.zeros((1, 6), np.float32)})}
    assert (costs["inner"].parameters, costs["inner"].macs) == (42, 72)
    assert costs["(model)"].macs == 2 * 4
    assert sum(cost.macs for cost in costs.values()) == 72 + 12 + 8


def test_fused_recurrent_layers_and_attention_are_counted() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.memory = nn.LSTM(8, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.memory(self.attention(x, x, x)[0])[0]
            return answer

    costs = {cost.name: cost for cost in module_costs(Reader().eval(), {"x": np.zeros((1, 5, 8), np.float32)})}
    assert costs["memory"].macs == 5 * (64 * 8 + 64 * 16)
    projections, products = 4 * 5 * 8 * 8, 2 * 5 * 5 * 8
    assert sum(cost.macs for name, cost in costs.items() if name != "memory") == projections + products


def test_the_exported_graph_costs_what_the_module_costs(mixed: Bundle, mixed_onnx: Path) -> None:
    sample = batch_of(mixed.samples, 1)
    module = mixed.module()
    graph = Graph(mixed_onnx, {name: tensor.numpy() for name, tensor in module.state_dict().items()})
    ours = {cost.name: cost for cost in graph.costs(sample)}
    theirs = {cost.name: cost for cost in module_costs(module, sample)}
    for name in ("conv", "head", "score"):
        assert ours[name].macs == theirs[name].macs > 0
        assert ours[name].output_shape == theirs[name].output_shape
    assert theirs["conv"].macs == 8 * 6 * 6 * 9
    assert ours["words"].parameters == theirs["words"].parameters == 80


def test_a_chain_of_products_in_onnx(saved: Path) -> None:
    layers = {"a": np.ones((4, 10), np.float32), "b": np.ones((10, 3), np.float32)}
    onnx.save(chain(layers, 4), saved)
    graph = Graph(saved)
    sample = {"x": np.zeros((1, 4), np.float32)}
    costs = {cost.name: cost for cost in graph.costs(sample)}
    assert (costs["a"].macs, costs["a"].parameters, costs["a"].weight_bytes) == (40, 40, 160)
    assert (costs["b"].macs, costs["b"].activation_bytes) == (30, 12)
    # The input, a product and its ReLU.
    assert graph.peak_activation_bytes(sample) == 4 * (4 + 10 + 10)
    assert [(layer.name, layer.last) for layer in graph.weighted_layers] == [("a", False), ("b", True)]


@pytest.mark.parametrize(
    ("node", "shapes", "expected"),
    [
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), {"x": (1, 4, 5, 5), "w": (4, 6, 2, 2)}, 100 * 6 * 4),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), {"x": (7, 2), "w": (7, 3), "y": (2, 3)}, 6 * 7),
        (
            helper.make_node("LSTM", ["x", "w", "r"], ["y"]),
            {"x": (5, 2, 8), "w": (1, 64, 8), "r": (1, 64, 16)},
            10 * 64 * 24,
        ),
        (
            helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij, bjk -> bik"),
            {"x": (2, 3, 4), "w": (2, 4, 5)},
            2 * 3 * 4 * 5,
        ),
        (helper.make_node("Relu", ["x"], ["y"]), {"x": (9,), "y": (9,)}, 0),
    ],
)
def test_macs_of_other_operators(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], expected: int) -> None:
    assert macs(node, {name: np.empty(shape) for name, shape in shapes.items()}) == expected


def test_times_of_a_module_name_the_layers_that_work() -> None:
    times = module_times(small_cnn(), (torch.zeros(1, 3, 6, 6),), seconds=0.05)
    assert set(times) == {"0", "1", "2", "3"}
    assert all(time >= 0 for time in times.values())
    assert sum(times.values()) > 0


def test_times_add_up_to_the_whole_and_added_work_gets_a_row() -> None:
    costs = [Cost(name, "Conv", 1, 1, 4, 4, (1,)) for name in ("a", "fused")]
    rows = timed(costs, {"a": 3.0, "(layout changes)": 1.0}, latency_ms=2.0)
    assert [(row.name, row.time_ms) for row in rows] == [("a", 1.5), ("fused", 0.0), ("(layout changes)", 0.5)]
