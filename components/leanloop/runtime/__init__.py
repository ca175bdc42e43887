"""Running models: one `Session` protocol, one file per runtime.

A runtime is a module here that registers how it opens a model in `RUNTIMES`. Its library is imported when the first
model is opened, so that a machine without it can do all else.
"""

from __future__ import annotations

from leanloop.runtime import onnxruntime, openvino, pytorch
from leanloop.runtime.original import kept_original_outputs, original_outputs
from leanloop.runtime.session import RUNTIMES, Session, answers_of, open_session, predict

__all__ = [
    "RUNTIMES",
    "Session",
    "answers_of",
    "kept_original_outputs",
    "onnxruntime",
    "open_session",
    "openvino",
    "original_outputs",
    "predict",
    "pytorch",
]
