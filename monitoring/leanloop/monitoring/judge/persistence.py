"""From windows to a state: one window never decides."""

from __future__ import annotations

from collections import deque
from math import comb
from typing import Literal

State = Literal["ok", "drifting", "unknown"]


class Persistence:
    """Drifting once ``raise_after`` of the last ``of`` windows alarm; ok again after ``clear_after`` quiet ones.

    Windows that were too small to judge leave the state as it is; before the first judged one it is ``unknown``.

    Args:
        raise_after: Alarming windows that raise.
        of: Judged windows that are looked back on.
        clear_after: Quiet windows in a row that clear.
    """

    def __init__(self, raise_after: int = 2, of: int = 3, clear_after: int = 3) -> None:
        if not 1 <= raise_after <= of:
            raise ValueError(f"raise_after must be between 1 and of: {raise_after}, {of}")
        self._raise_after, self._of, self._clear_after = raise_after, of, clear_after
        self._recent: deque[bool] = deque(maxlen=max(of, clear_after))
        self.state: State = "unknown"

    def add(self, drifts: bool | None) -> State:
        """Take in a judged window (None: it was too small) and return the state."""
        if drifts is None:
            return self.state
        self._recent.append(drifts)
        recent = list(self._recent)
        if sum(recent[-self._of :]) >= self._raise_after:
            self.state = "drifting"
        elif self.state == "unknown" or not any(recent[-self._clear_after :]):
            self.state = "ok"
        return self.state

    def windows_between_false_alarms(self, level: float) -> float:
        """Expected windows until ``drifting`` is raised without drift, when each alarms with chance ``level``.

        An upper bound on the rate: the chance that ``raise_after`` of ``of`` given windows alarm, independently.
        """
        count = range(self._raise_after, self._of + 1)
        return 1 / sum(comb(self._of, k) * level**k * (1 - level) ** (self._of - k) for k in count)
