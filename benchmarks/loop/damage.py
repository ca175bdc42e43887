"""Really damaged versions of the served model: what they answer is computed, never made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def swapped(source: Path, target: Path, classes: tuple[int, int]) -> None:
    """A copy that gives each of two classes the other's logit: it learnt their labels the wrong way round."""
    model = onnx.load(source)
    output = model.graph.output[0]
    order = np.arange(output.type.tensor_type.shape.dim[1].dim_value)
    order[list(classes)] = order[list(reversed(classes))]
    for node in model.graph.node:
        node.output[:] = [f"{name}_as_learnt" if name == output.name else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(order, "order_of_classes"))
    model.graph.node.append(
        helper.make_node("Gather", [f"{output.name}_as_learnt", "order_of_classes"], [output.name], axis=1)
    )
    _save(model, target)


def worn(source: Path, target: Path, rng: np.random.Generator, most: int) -> None:
    """A copy of an INT8 model whose weights are off by up to so many steps: its memory or its file has changed."""
    model = onnx.load(source)
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.INT8:
            values = numpy_helper.to_array(weight).astype(np.int64)
            changed = np.clip(values + rng.integers(-most, most + 1, values.shape), -127, 127).astype(np.int8)
            weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    _save(model, target)


def clipped(source: Path, target: Path, number: int, most: int) -> None:
    """A copy of an INT8 model whose weights of one class are clipped: ranges that were right for the other classes."""
    model = onnx.load(source)
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    (head,) = (
        weight
        for weight in model.graph.initializer
        if weight.data_type == TensorProto.INT8 and len(weight.dims) == 2 and weight.dims[0] == classes
    )
    values = numpy_helper.to_array(head).copy()
    values[number] = np.clip(values[number], -most, most)
    head.CopyFrom(numpy_helper.from_array(values, head.name))
    _save(model, target)


def _save(model: onnx.ModelProto, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.checker.check_model(model)
    onnx.save(model, target)
