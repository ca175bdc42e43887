"""Pareto front, constraints, the gate; a winner or an honest "nothing better"; the report."""

from __future__ import annotations

from leanloop.select.choose import choose, read_evidence
from leanloop.select.decision import KEEP_ORIGINAL, decide
from leanloop.select.gate import Evidence
from leanloop.select.objective import improvement, objective_value, speedup
from leanloop.select.pareto import pareto_front
from leanloop.select.report import render_report
from leanloop.select.summary import leaderboard, summary_panel

__all__ = [
    "KEEP_ORIGINAL",
    "Evidence",
    "choose",
    "decide",
    "improvement",
    "leaderboard",
    "objective_value",
    "pareto_front",
    "read_evidence",
    "render_report",
    "speedup",
    "summary_panel",
]
