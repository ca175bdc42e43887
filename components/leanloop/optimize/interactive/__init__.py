"""The optimiser in a notebook: a live module and its loaders in, a result that can be asked, drawn and kept out.

Nothing here searches or measures: the live objects are written down as the project of an owner (`project`), the same
steps as in a pipeline run on it in child processes (`call`), and what they left is read (`result`).
"""

from __future__ import annotations

from leanloop.optimize.interactive.call import optimize
from leanloop.optimize.interactive.result import Best, Result

__all__ = ["Best", "Result", "optimize"]
