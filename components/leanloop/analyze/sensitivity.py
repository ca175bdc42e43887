"""How much the metric suffers when one layer is pruned or quantised, and all others are left alone.

Both treatments are simulated in the exported graph, whatever kind the bundle is: batch norms are folded there, so a
channel that is zeroed is really gone, and ONNX Runtime makes an evaluation cheap.

* ``prune_50``: the half of the output channels whose filters have the least L2 norm (Li et al., "Pruning Filters for
  Efficient ConvNets", 2017) answers zero.
* ``int8``: weights are rounded to symmetric INT8 per output channel, the layer's input to affine UINT8 between the
  extremes seen on the calibration split: the scheme of ONNX Runtime's static quantisation on x86.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from leanloop.analyze.graph import Graph, WeightedLayer, run_model
from leanloop.bundle import Arrays, Bundle, Split
from leanloop.core.contracts import LayerSensitivity
from leanloop.core.hardware import usable_cores

Treatment = Literal["prune_50", "int8"]

SAMPLES = 500
SAMPLES_AT_LEAST = 100
RANGE_SAMPLES = 128
_BATCH = 64


@dataclass(frozen=True)
class Trial:
    """One layer under one treatment."""

    layer: WeightedLayer
    treatment: Treatment


def trials(graph: Graph, order: Sequence[str] = ()) -> list[Trial]:
    """Every treatment of every layer that it fits.

    A last layer's channels are the model's answers, and a grouped convolution's are tied to its input's: neither is
    pruned by itself.

    Args:
        graph: The model.
        order: Node names; these layers come first, so that they are tried before time runs out.
    """
    rank = {name: place for place, name in enumerate(order)}
    layers = sorted(graph.weighted_layers, key=lambda layer: rank.get(layer.node, len(rank)))
    prunable = [layer for layer in layers if not layer.last and layer.groups == 1 and _channels(graph, layer) > 1]
    return [
        Trial(layer, treatment)
        for layer in layers
        for treatment in ("int8", "prune_50")
        if treatment == "int8" or layer in prunable
    ]


def sensitivities(
    bundle: Bundle,
    graph: Graph,
    pending: Sequence[Trial],
    *,
    seconds: float,
    on_trial: Callable[[int, Trial], None] = lambda done, trial: None,
) -> tuple[LayerSensitivity, ...]:
    """Evaluate each trial on a part of the validation split.

    The number of samples is chosen so that all trials fit into the time, from `SAMPLES` down to `SAMPLES_AT_LEAST`;
    trials that still do not fit are left out. Sensitivities compare with the untreated graph on the same samples.

    Args:
        bundle: Data and metric.
        graph: The exported original.
        pending: What to try, most important first.
        seconds: The time for all.
        on_trial: Told before each trial how many are done.
    """
    if not pending:
        return ()
    deadline = time.perf_counter() + seconds
    ranges = input_ranges(graph, [trial.layer for trial in pending], bundle.split("calibration"))
    validation = bundle.split("validation").take(slice(0, SAMPLES))
    started = time.perf_counter()
    reference = _answers(graph.model, validation, graph.outputs)
    cost = time.perf_counter() - started
    share = max(0.0, deadline - time.perf_counter()) / (cost * len(pending))
    if share < 1.0:
        kept = max(SAMPLES_AT_LEAST, int(len(validation) * share))
        validation = validation.take(slice(0, kept))
        reference = {name: values[:kept] for name, values in reference.items()}
    original = bundle.score(reference, validation, reference)
    found = []
    for done, trial in enumerate(pending):
        if time.perf_counter() > deadline:
            break
        on_trial(done, trial)
        treated = treated_model(graph, trial, ranges)
        metric = bundle.score(_answers(treated, validation, graph.outputs), validation, reference)
        found.append(
            LayerSensitivity(
                name=trial.layer.name,
                treatment=trial.treatment,
                metric=metric,
                drop=bundle.metric.drop(original, metric),
            )
        )
    return tuple(found)


def _channels(graph: Graph, layer: WeightedLayer) -> int:
    return int(graph.constants[layer.weight].shape[layer.channel_axis])


def _answers(model: onnx.ModelProto, split: Split, outputs: Sequence[str]) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    # Rounding is simulated on purpose: kernels that round once more would count it twice.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [session.run(list(outputs), batch.inputs) for batch in split.batches(_BATCH)]
    return {name: np.concatenate(values) for name, values in zip(outputs, zip(*parts, strict=True), strict=True)}


def input_ranges(graph: Graph, layers: Sequence[WeightedLayer], split: Split) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each layer's input on the first samples of a split, zero included."""
    names = sorted({graph.nodes[layer.node].input[0] for layer in layers})
    found: dict[str, tuple[float, float]] = {}
    fed = [name for name in names if name in split.inputs]
    inner = [name for name in names if name not in split.inputs]
    for batch in split.take(slice(0, RANGE_SAMPLES)).batches(_BATCH):
        values = run_model(graph.model, batch.inputs, inner, usable_cores()) if inner else {}
        for name, array in (*values.items(), *((name, batch.inputs[name]) for name in fed)):
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return found


def treated_model(graph: Graph, trial: Trial, ranges: dict[str, tuple[float, float]]) -> onnx.ModelProto:
    """A copy of the model with one layer treated; ``ranges`` are those of `input_ranges`."""
    layer = trial.layer
    weight = graph.constants[layer.weight]
    if trial.treatment == "int8":
        model = _with_constants(graph.model, {layer.weight: round_per_channel(weight, layer.channel_axis)})
        _round_input(model, layer.node, *ranges[graph.nodes[layer.node].input[0]])
        return model
    gone = least_channels(weight, layer.channel_axis)
    changed = {layer.weight: _zeroed(weight, layer.channel_axis, gone)}
    if layer.bias:
        changed[layer.bias] = _zeroed(graph.constants[layer.bias], 0, gone)
    return _with_constants(graph.model, changed)


def least_channels(weight: np.ndarray, axis: int) -> np.ndarray:
    """Indices of the half of the channels along ``axis`` with the least L2 norm."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    norms = np.sqrt(np.square(weight, dtype=np.float64).sum(axis=others))
    return np.argsort(norms, kind="stable")[: len(norms) // 2]


def round_per_channel(weight: np.ndarray, axis: int) -> np.ndarray:
    """Weights rounded to 255 symmetric levels per channel along ``axis``, as fp32."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale = np.abs(weight).max(axis=others, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1)
    return np.asarray(np.round(weight / scale) * scale, dtype=np.float32)


def _zeroed(values: np.ndarray, axis: int, gone: np.ndarray) -> np.ndarray:
    zeroed = np.moveaxis(values.copy(), axis, 0)
    zeroed[gone] = 0
    return np.moveaxis(zeroed, 0, axis)


def _with_constants(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return changed


def _round_input(model: onnx.ModelProto, node_name: str, low: float, high: float) -> None:
    # A range that is not empty and holds zero, so that padding stays exact.
    scale = (high - low) / 255 or 1.0
    zero = np.uint8(np.clip(round(-low / scale), 0, 255))
    place, node = next((place, node) for place, node in enumerate(model.graph.node) if node.name == node_name)
    scale_name, zero_name, levels, rounded = (f"leanloop.int8.{part}" for part in ("scale", "zero", "levels", "input"))
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(scale, np.float32), scale_name),
            numpy_helper.from_array(np.array(zero, np.uint8), zero_name),
        ]
    )
    quantise = helper.make_node("QuantizeLinear", [node.input[0], scale_name, zero_name], [levels])
    dequantise = helper.make_node("DequantizeLinear", [levels, scale_name, zero_name], [rounded])
    node.input[0] = rounded
    model.graph.node.insert(place, quantise)
    model.graph.node.insert(place + 1, dequantise)
