"""What each target can do with a model's operators. A target's module here adds its check to `COVERAGE`."""

from __future__ import annotations

from leanloop.analyze.coverage import onnxruntime as _onnxruntime  # noqa: F401 - registers itself
from leanloop.analyze.coverage import openvino as _openvino  # noqa: F401 - registers itself
from leanloop.analyze.coverage.checks import COVERAGE, operator_coverage

__all__ = ["COVERAGE", "operator_coverage"]
