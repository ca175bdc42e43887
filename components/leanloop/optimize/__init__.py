"""Searching for the recipe that makes a model smallest and fastest at the accuracy that its owner asks for.

`search_worker` is one of several parallel workers; `finalists` chooses among what they found; `rebuild` gives a
candidate's PyTorch module back. `revise` makes a new bundle revision from live samples, `remake` a recipe again on it.
`optimize` does all of a run but serving, from a notebook.
"""

from __future__ import annotations

from leanloop.optimize.apply import make_files, rebuild
from leanloop.optimize.candidate import replay
from leanloop.optimize.feasibility import check_feasible
from leanloop.optimize.finalists import Finalist, all_rows, finalists
from leanloop.optimize.interactive import Best, Result, optimize
from leanloop.optimize.objective import holds
from leanloop.optimize.recipe import Recipe, prefix_id, recipe_id
from leanloop.optimize.remake import remake
from leanloop.optimize.revise import Fresh, revise
from leanloop.optimize.search import search_worker
from leanloop.optimize.techniques import (
    TECHNIQUES,
    Applied,
    Config,
    Findings,
    GraphTechnique,
    TorchTechnique,
    Workshop,
    fine_tuning,
    load_installed,
    read_config,
    reshaping,
)

__all__ = [
    "TECHNIQUES",
    "Applied",
    "Best",
    "Config",
    "Finalist",
    "Findings",
    "Fresh",
    "GraphTechnique",
    "Recipe",
    "Result",
    "TorchTechnique",
    "Workshop",
    "all_rows",
    "check_feasible",
    "finalists",
    "fine_tuning",
    "holds",
    "make_files",
    "optimize",
    "prefix_id",
    "read_config",
    "rebuild",
    "recipe_id",
    "remake",
    "replay",
    "reshaping",
    "revise",
    "search_worker",
]

load_installed()
