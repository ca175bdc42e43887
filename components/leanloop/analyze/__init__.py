"""Step 1: what a model costs per layer, where it is sensitive, what a target covers, and what could help."""

from __future__ import annotations

from leanloop.analyze.analysis import analyze
from leanloop.analyze.table import render

__all__ = ["analyze", "render"]
