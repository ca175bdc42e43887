"""Turning models into what runtimes load, and checking that they still answer the same.

A target is a module here that registers a row in `TARGETS`.
"""

from __future__ import annotations

from leanloop.convert.baselines import baselines
from leanloop.convert.export import export_onnx, fp32_onnx
from leanloop.convert.onnxruntime import onnx_model_files
from leanloop.convert.openvino import ir_model_files, load_graph, openvino_model_files, save_ir
from leanloop.convert.parity import LIMITS, Limits, check_parity, compare, parity_samples
from leanloop.convert.targets import TARGETS, Target

__all__ = [
    "LIMITS",
    "Limits",
    "TARGETS",
    "Target",
    "baselines",
    "check_parity",
    "compare",
    "export_onnx",
    "fp32_onnx",
    "ir_model_files",
    "load_graph",
    "onnx_model_files",
    "openvino_model_files",
    "parity_samples",
    "save_ir",
]
