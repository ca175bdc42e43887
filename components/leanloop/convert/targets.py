"""The capability table: what a target can do here, which extra it needs, and how a model gets there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from leanloop.core.contracts import ModelFiles, Precision
from leanloop.core.registry import Registry


class ConvertOnnx(Protocol):
    """How an ONNX file becomes what a target loads."""

    def __call__(
        self, onnx: Path, folder: Path, precision: Precision = "fp32", hints: dict[str, str] | None = None
    ) -> ModelFiles:
        """Write the target's files into ``folder``."""


@dataclass(frozen=True)
class Target:
    """One row of the table.

    Attributes:
        name: As in the settings' ``targets``.
        extra: The optional dependency that brings its library; empty when leanloop itself does.
        convert: Turns an ONNX file into the target's files.
        convert_needs: Modules that conversion imports.
        run_needs: Modules that running imports.
    """

    name: str
    extra: str
    convert: ConvertOnnx
    convert_needs: tuple[str, ...] = field(default=())
    run_needs: tuple[str, ...] = field(default=())

    def can_convert(self) -> str | None:
        """Why it cannot convert here; None when it can."""
        return self._lacks(self.convert_needs)

    def can_run(self) -> str | None:
        """Why it cannot run here; None when it can."""
        return self._lacks(self.run_needs)

    def _lacks(self, modules: tuple[str, ...]) -> str | None:
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if not missing:
            return None
        return f"{', '.join(missing)} is not installed; install the extra: leanloop[{self.extra}]"


TARGETS: Registry[Target] = Registry("target")
