"""Pareto front, constraints, the gate; a winner or an honest "nothing better"; the report."""

from __future__ import annotations

from leanloop.select.decision import decide
from leanloop.select.gate import Evidence
from leanloop.select.pareto import pareto_front

__all__ = ["Evidence", "decide", "pareto_front"]
