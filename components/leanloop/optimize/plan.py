"""What a search worker hands to a trial's child process, and what it gets back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from leanloop.bundle import Bundle
from leanloop.core.contracts import RecipeRecord, Record, TrialRow
from leanloop.core.settings import GoalSettings
from leanloop.core.store import Store
from leanloop.optimize.techniques import Workshop

Status = Literal["holds", "fails", "not enough", "able", "no time", "duplicate"]

HOLDS: Status = "holds"
"""A candidate holds the accuracy."""
FAILS: Status = "fails"
"""None does, or the short training was hopeless, or the shape cannot be made."""
NOT_ENOUGH: Status = "not enough"
"""Timed untrained: still too large or slow for the goal, or no better than what holds already."""
ABLE: Status = "able"
"""Timed untrained: better than what holds already, so worth training. Said by a probe, which goes no further."""
NO_TIME: Status = "no time"
"""The budget had no room for its training."""
DUPLICATE: Status = "duplicate"
"""Another worker drew the same point at the same moment."""


class Job(Record):
    """Where a trial works, and for what.

    Attributes:
        bundle: Its folder.
        store: URL.
        goal: Batch size and threads to measure at, and the accuracy to hold.
        threads: CPU threads that this worker may use to train.
        trial: Number in the study.
        folder: Of the child process.
        timeout_seconds: That the child process is given; 0 where nothing limits it.
        memory_bytes: Likewise.
    """

    bundle: str
    store: str
    goal: GoalSettings
    threads: int
    trial: int
    folder: str
    timeout_seconds: float = 0.0
    memory_bytes: int = 0

    def workshop(self) -> Workshop:
        """The opened bundle and store."""
        return Workshop(Bundle(Path(self.bundle)), Store(self.store), self.threads)


class Timed(Record):
    """How fast and how large a recipe's files are; a reason instead when they cannot be made."""

    latency_ms: float | None
    size_bytes: int | None
    reason: str = ""


class Plan(Record):
    """What to do with one shape.

    Attributes:
        groups: Recipes with the same PyTorch techniques, grouped by how the files are made, best first: in each group
            the first that holds the accuracy ends it.
        best: Objective of the best candidate so far that holds the accuracy; None when there is none.
        short_floor: A short score worse than this cannot end well; None trains in full at once.
        deadline: Unix time at which a full training must have ended.
        probe: Time the untrained shape only.
        rival: Candidate that a probe times beside the shape, since the machine may be slower now than it was then.
    """

    groups: tuple[tuple[RecipeRecord, ...], ...]
    best: float | None
    short_floor: float | None
    deadline: float
    probe: bool = False
    rival: str | None = None


class Outcome(Record):
    """How a trial ended.

    Attributes:
        status: What it says about this shape.
        rows: One per recipe that was tried; at least one.
        short_metric: On validation, after the short training; None without one.
    """

    status: Status
    rows: tuple[TrialRow, ...]
    short_metric: float | None = None
