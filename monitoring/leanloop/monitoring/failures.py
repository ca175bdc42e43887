"""Looks that fail: told, counted in a row, and no reason not to look at everything else."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from leanloop.core.errors import LeanloopError
from leanloop.monitoring.view import FailureView

log = logging.getLogger(__name__)

PAGE_AFTER = 6
"""Looks in a row that fail before a person is asked: by then it is nothing that passes."""


class Failures:
    """What failed when it was last looked at, and since when."""

    def __init__(self) -> None:
        self._failing: dict[str, FailureView] = {}

    @contextmanager
    def told(self, what: str, now: float, *, model: str = "") -> Iterator[None]:
        """Do one part of a look; a failure ends the part alone.

        Args:
            what: The part, for people; each has its own count.
            now: Unix time.
            model: That the part is about; empty when it is about none.
        """
        try:
            yield
        except LeanloopError as error:
            value = "" if error.value is None else f" {error.value}"
            if self._is_new(what, model, f"{error.what}{value} ({error.where})", now):
                log.error("%s: the look failed: %s", what, error)
        except Exception as error:
            # Whatever it is, all the rest must be looked at: a flaw that one model shows must not hide the others.
            if self._is_new(what, model, f"{type(error).__name__}: {error}", now):
                log.exception("%s: the look failed", what)
        else:
            self._failing.pop(what, None)

    def _is_new(self, what: str, model: str, problem: str, now: float) -> bool:
        before = self._failing.get(what)
        looks = 1 if before is None else before.looks + 1
        since = now if before is None else before.since
        self._failing[what] = FailureView(
            what=what, model=model, looks=looks, since=since, problem=problem, paged=looks >= PAGE_AFTER
        )
        return before is None or before.problem != problem

    def forget_models(self, served: Collection[str]) -> None:
        """What is served no more cannot fail any more."""
        self._failing = {
            what: failure for what, failure in self._failing.items() if not failure.model or failure.model in served
        }

    def now(self) -> tuple[FailureView, ...]:
        """What fails now, by name."""
        return tuple(self._failing[what] for what in sorted(self._failing))
