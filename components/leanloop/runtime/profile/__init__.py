"""What ran inside a call: each kernel, its kind, its precision and its time, by the runtime's own account.

One file per runtime, which registers itself in `PROFILERS`.
"""

from __future__ import annotations

from leanloop.runtime.profile import onnxruntime, openvino
from leanloop.runtime.profile.base import PROFILERS, Kernel, profile

__all__ = ["PROFILERS", "Kernel", "onnxruntime", "openvino", "profile"]
