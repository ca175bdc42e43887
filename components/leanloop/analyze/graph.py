"""An ONNX file as a list of layers: one per node, with its weights, its shapes and its costs.

Shapes are read off a real run on one sample, so that operators without shape inference count as well. Multiplications
are counted here rather than by onnx-tool: it adds biases and element-wise operators to the MACs, and PyTorch's own
counter does not, so the two kinds of bundle could not be compared.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from leanloop.analyze.cost import Cost
from leanloop.bundle import Arrays

_WEIGHT_INPUT = {"Conv": 1, "FusedConv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "QLinearMatMul", "QGemm"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
"""Operators whose output shares the memory of their first input."""


@dataclass(frozen=True)
class WeightedLayer:
    """A node that multiplies an activation, its first input, with a constant fp32 weight.

    Attributes:
        node: The node's name in the graph.
        name: The layer's name: the module's where the weight tells it, else the node's.
        kind: ``Conv``, ``Gemm`` or ``MatMul``.
        weight: Name of the constant.
        bias: Name of the constant that is added to each output channel; empty when there is none.
        channel_axis: The weight's axis of output channels.
        groups: Of a convolution; 1 otherwise.
        last: Whether no other such layer follows: its channels are the model's outputs.
    """

    node: str
    name: str
    kind: str
    weight: str
    bias: str
    channel_axis: int
    groups: int
    last: bool


class Graph:
    """A parsed ONNX file whose nodes all have names, and whose local functions are inlined."""

    def __init__(self, file: Path, parameters: Mapping[str, np.ndarray] | None = None) -> None:
        """Parse a file.

        Args:
            file: The ONNX file.
            parameters: The PyTorch model's, by name: a weight that the exporter renamed is recognised by its values.
        """
        self.model = onnx.inliner.inline_local_functions(onnx.load(file))
        for number, node in enumerate(self.model.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        self.outputs = tuple(value.name for value in self.model.graph.output)
        self.producers = {name: node for node in self.model.graph.node for name in node.output if name}
        self._modules = _modules_by_values(parameters or {})
        self.layer_names = self._layer_names()

    def _layer_names(self) -> dict[str, str]:
        found = {node.name: self._module_of(node) or node.name for node in self.model.graph.node}
        # Two nodes that share a weight are two layers: both keep their own names.
        uses = Counter(found.values())
        return {node: name if uses[name] == 1 else node for node, name in found.items()}

    def _module_of(self, node: onnx.NodeProto) -> str | None:
        for name in node.input:
            if name not in self.constants:
                continue
            if name.endswith(".weight"):
                return name.removesuffix(".weight")
            module = self._modules.get(_values_digest(self.constants[name]))
            if module is not None:
                return module
        return None

    @property
    def weighted_layers(self) -> list[WeightedLayer]:
        """Layers that can be pruned or quantised, in the graph's order."""
        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        weighted = [node for node in self.model.graph.node if self._is_weighted(node)]
        names = {node.name for node in weighted}
        return [self._weighted_layer(node, consumers, names) for node in weighted]

    def _is_weighted(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} or node.input[0] in self.constants:
            return False
        weight = self.constants.get(node.input[1])
        return weight is not None and weight.dtype == np.float32 and weight.ndim >= 2

    def _weighted_layer(
        self, node: onnx.NodeProto, consumers: Mapping[str, list[onnx.NodeProto]], weighted: set[str]
    ) -> WeightedLayer:
        weight = self.constants[node.input[1]]
        match node.op_type:
            case "Conv":
                axis = 0
            case "Gemm":
                axis = 0 if attribute(node, "transB", 0) else 1
            case _:
                axis = weight.ndim - 1
        bias = node.input[2] if len(node.input) > 2 else ""
        after = consumers.get(node.output[0], [])
        if not bias and len(after) == 1 and after[0].op_type == "Add":
            bias = next((name for name in after[0].input if name in self.constants), "")
        if bias and self.constants.get(bias, np.empty(0)).shape != (weight.shape[axis],):
            bias = ""
        return WeightedLayer(
            node=node.name,
            name=self.layer_names[node.name],
            kind=node.op_type,
            weight=node.input[1],
            bias=bias,
            channel_axis=axis,
            groups=attribute(node, "group", 1),
            last=not _reaches(node, consumers, weighted),
        )

    def shapes(self, sample: Arrays) -> dict[str, np.ndarray]:
        """Shape and type of every tensor for one sample, as arrays whose values nobody should read."""
        inner = [name for name in self.producers if name not in self.outputs]
        values = run_model(self.model, sample, [*inner, *self.outputs])
        return {**self.constants, **sample, **values}

    def costs(self, sample: Arrays) -> list[Cost]:
        """Parameters, MACs and bytes of every node for one sample; a shared weight counts once."""
        tensors = self.shapes(sample)
        counted: set[str] = set()
        costs = []
        for node in self.model.graph.node:
            own = [name for name in node.input if name not in counted and _is_parameter(self.constants.get(name))]
            counted.update(own)
            outputs = [tensors[name] for name in node.output if name]
            costs.append(
                Cost(
                    name=self.layer_names[node.name],
                    kind=node.op_type,
                    parameters=sum(self.constants[name].size for name in own),
                    macs=macs(node, tensors),
                    weight_bytes=sum(self.constants[name].nbytes for name in own),
                    activation_bytes=sum(value.nbytes for value in outputs),
                    output_shape=outputs[0].shape if outputs else (),
                )
            )
        return costs

    def peak_activation_bytes(self, sample: Arrays) -> int:
        """Most bytes of activations alive at once for one sample, in the graph's order, without fusion.

        Inputs live throughout, for the caller holds them; outputs live to the end.
        """
        tensors = self.shapes(sample)
        owner: dict[str, str] = {name: name for name in sample}
        last_use: dict[str, int] = {}
        for step, node in enumerate(self.model.graph.node):
            for name in node.output:
                shares = node.op_type in _VIEWS and name == node.output[0] and node.input[0] in owner
                owner[name] = owner[node.input[0]] if shares else name
                last_use[owner[name]] = step
            for name in node.input:
                if name in owner:
                    last_use[owner[name]] = step
        end = len(self.model.graph.node)
        last_use |= {owner[name]: end for name in self.outputs if name in owner} | dict.fromkeys(sample, end)
        alive = peak = sum(values.nbytes for values in sample.values())
        for step, node in enumerate(self.model.graph.node):
            alive += sum(tensors[name].nbytes for name in node.output if name and owner[name] == name)
            peak = max(peak, alive)
            alive -= sum(tensors[name].nbytes for name, last in last_use.items() if last == step and name)
        return peak


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(found.i) for found in node.attribute if found.name == name), default)


def macs(node: onnx.NodeProto, tensors: Mapping[str, np.ndarray]) -> int:
    """Multiply-accumulates of one node, biases and element-wise operators left out.

    Args:
        node: Any node; only convolutions, products and recurrent layers multiply.
        tensors: Arrays of the shapes of its inputs and outputs.
    """
    kind = node.op_type
    if kind in _WEIGHT_INPUT:
        weight = tensors[node.input[_WEIGHT_INPUT[kind]]]
        # Each element of a convolution's output (of a transposed one's input) meets one filter.
        met = tensors[node.input[0]] if kind == "ConvTranspose" else tensors[node.output[0]]
        return met.size * math.prod(weight.shape[1:])
    if kind in _PRODUCTS:
        left = tensors[node.input[0]].shape
        return int(tensors[node.output[0]].size * left[0 if attribute(node, "transA", 0) else -1])
    if kind in _RECURRENT:
        steps = math.prod(tensors[node.input[0]].shape[:2])
        return steps * (tensors[node.input[1]].size + tensors[node.input[2]].size)
    if kind == "Einsum":
        return _einsum_macs(node, tensors)
    return 0


def _einsum_macs(node: onnx.NodeProto, tensors: Mapping[str, np.ndarray]) -> int:
    equation = next(found.s.decode() for found in node.attribute if found.name == "equation")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2 or "..." in equation:
        return 0
    sizes = {
        label: size
        for term, name in zip(terms, node.input, strict=True)
        for label, size in zip(re.findall(r"[A-Za-z]", term), tensors[name].shape, strict=True)
    }
    return math.prod(sizes.values())


def run_model(model: onnx.ModelProto, inputs: Arrays, outputs: list[str], threads: int = 1) -> Arrays:
    """Run a model once and return any of its tensors by name."""
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    # Without a type ONNX Runtime infers it.
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(outputs, inputs), strict=True))


def _reaches(node: onnx.NodeProto, consumers: Mapping[str, list[onnx.NodeProto]], targets: set[str]) -> bool:
    waiting, seen = list(node.output), set(node.output)
    while waiting:
        for consumer in consumers.get(waiting.pop(), []):
            if consumer.name in targets:
                return True
            fresh = [name for name in consumer.output if name not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return False


def _is_parameter(values: np.ndarray | None) -> bool:
    # Whole numbers of 64 bits are shapes, axes and indices.
    return values is not None and values.ndim > 0 and values.dtype not in (np.int64, np.bool_)


def _modules_by_values(parameters: Mapping[str, np.ndarray]) -> dict[str, str]:
    matrices = {name.removesuffix(".weight"): v for name, v in parameters.items() if name.endswith(".weight")}
    found: dict[str, str] = {}
    for name, values in matrices.items():
        found[_values_digest(values)] = name
        if values.ndim == 2:
            found[_values_digest(values.T)] = name
    return found


def _values_digest(values: np.ndarray) -> str:
    return hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest()
