"""The study that workers share, and the time that they have spent on it."""

from __future__ import annotations

import re
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from leanloop.core.errors import SettingsError, StoreError, TrialError
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.optimize.plan import DUPLICATE
from leanloop.optimize.sampler import (
    STATUS,
    FrontierSampler,
    as_params,
    distributions,
    first_shape,
    next_point,
    point_of,
)
from leanloop.optimize.space import EFFORTS, Space

OBJECTIVES = ("latency_ms", "metric_drop", "size_bytes")
"""All minimised; the drop is against the original, in the metric's units."""

WORKER = "worker"
"""User attribute of a trial: who runs it."""

_MOST_DRAWS = 50
"""Each worker gives a point up at most once for each other one that draws at the same moment."""

_TABLE_ATTEMPTS, _TABLE_SECONDS = 10, 0.5
"""How often, and how many seconds apart, a new database is tried."""

_SIGNED_WITHIN = timedelta(minutes=1)
"""A running trial without a worker is dead after this."""


def store_url(settings: Settings) -> str:
    """Where results are kept: ``store.url``, or a folder in the workspace."""
    return settings.store.url or str((Path(settings.workspace) / "store").resolve())


def open_study(settings: Settings, space: Space, bundle_digest: str) -> optuna.Study:
    """The study of this bundle, space and goal; made when it is new, with the original's shape first in the queue.

    It has several objectives, and the goal's limits as constraints: Optuna's own tools show its Pareto front.

    Raises:
        SettingsError: The store is not a local folder, and `optimize.storage` names no database.
        StoreError: The database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=f"{bundle_digest[:16]}-{space.digest(settings)[:16]}",
        storage=_storage(settings),
        sampler=FrontierSampler(space),
        directions=["minimize"] * len(OBJECTIVES),
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(OBJECTIVES))
    study.enqueue_trial(as_params((first_shape(space), 0, EFFORTS[0])), skip_if_exists=True)
    return study


def ask(study: optuna.Study, space: Space, worker: int) -> optuna.Trial | None:
    """A new trial with its parameters; None when nothing is left that is worth one.

    A point that another worker drew at the same moment is given up again by the later of the two.

    Raises:
        TrialError: The sampler keeps asking for points that are known.
    """
    for _ in range(_MOST_DRAWS):
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting and next_point(space, study.get_trials(deepcopy=False)) is None:
            return None
        trial = study.ask(distributions(space))
        try:
            trial.set_user_attr(WORKER, worker)
        except UpdateFinishedTrialError:
            # Unsigned for so long, it was taken for a dead worker's; its point is in the queue again.
            continue
        earlier = [
            other
            for other in study.get_trials(deepcopy=False)
            if other.number < trial.number and point_of(other) == point_of(trial) and _occupies(other)
        ]
        if not earlier:
            return trial
        with suppress(UpdateFinishedTrialError):  # another worker took us for dead and has released it
            trial.set_user_attr(STATUS, DUPLICATE)
            end(study, trial, state=TrialState.PRUNED)
    raise TrialError("The search goes round in circles: it asks for what is known.", value=point_of(trial))


def end(
    study: optuna.Study, trial: optuna.Trial, values: Sequence[float] | None = None, state: TrialState | None = None
) -> None:
    """End a trial with its objectives' values, or in a state without any.

    Args:
        study: The trial's.
        trial: Of this worker.
        values: In the order of `OBJECTIVES`.
        state: Where there are no values.

    Raises:
        UpdateFinishedTrialError: It has been ended already, by a worker that took this one for dead.
    """
    try:
        study.tell(trial, values, state)
    except ValueError as error:
        # Where Optuna looks before it writes it has a plain ValueError for an ended trial, as for values that are none.
        trials = study.get_trials(deepcopy=False)
        if any(one.number == trial.number and one.state.is_finished() for one in trials):
            raise UpdateFinishedTrialError(str(error)) from error
        raise


def release_dead(study: optuna.Study, is_dead: Callable[[int], bool]) -> list[int]:
    """Fail the running trials of dead workers, and those that nobody signed, and put their points back into the queue.

    Args:
        study: Shared.
        is_dead: Whether the worker of this number is dead, or it is an earlier process of it that is meant.

    Returns:
        Numbers of the trials.
    """
    released = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(WORKER)
        if not (_is_unsigned(trial) if owner is None else is_dead(owner)):
            continue
        # Of two workers that see it at once, both may queue the point: the second draw of it is given up in `ask`.
        with suppress(UpdateFinishedTrialError):  # ended in the very moment between Optuna's look and its writing
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        if point := point_of(trial):
            study.enqueue_trial(as_params(point))
        released.append(trial.number)
    return released


def left_behind(worker: int, workers: int) -> Callable[[int], bool]:
    """Whose trials a worker that starts now takes for left: its own earlier processes'.

    Worker 0 also takes those of workers that are no longer part of the run.
    """
    return lambda owner: owner == worker or (worker == 0 and owner >= workers)


def _is_unsigned(trial: FrozenTrial) -> bool:
    # Another worker asked for it and has not signed it yet; or died before it could.
    return trial.datetime_start is None or datetime.now() - trial.datetime_start > _SIGNED_WITHIN


def mine(study: optuna.Study, worker: int) -> list[FrozenTrial]:
    """This worker's ended trials, of earlier processes too; not those that were given to another when it died."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return [trial for trial in study.get_trials(states=ended) if trial.user_attrs.get(WORKER) == worker]


class Clock:
    """Time spent on a study: the union of all workers' times at work, so that a pause between two runs is free."""

    def __init__(self, store: Store, study: str, budget_seconds: float) -> None:
        self._store = store
        self._prefix = f"studies/{study}/sessions"
        self._key = f"{self._prefix}/{uuid.uuid4().hex}.json"
        self._started = time.time()
        self.budget = budget_seconds

    def spent(self) -> float:
        """Seconds spent so far by all; notes this worker's own, too."""
        self._store.put_json(self._key, {"started": self._started, "last": time.time()})
        sessions: list[Any] = [self._store.get_json(key) for key in self._store.keys(self._prefix)]
        return union_seconds([(session["started"], session["last"]) for session in sessions if session is not None])

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - self.spent()


def union_seconds(intervals: list[tuple[float, float]]) -> float:
    """Total length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _occupies(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.FAIL and trial.user_attrs.get(STATUS) != DUPLICATE


def _storage(settings: Settings) -> BaseStorage:
    if settings.optimize.storage:
        return _database(settings.optimize.storage)
    url = store_url(settings)
    if "://" in url and not url.startswith("file://"):
        raise SettingsError(
            "A store that is not a local folder needs a database for the search.",
            where="optimize.storage",
            value=url,
            fix="Set optimize.storage, for example postgresql://user@host/leanloop (pip install leanloop[postgresql]).",
        )
    file = Path(url.removeprefix("file://")) / "studies.journal"
    file.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(file)))


def _database(url: str) -> BaseStorage:
    from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

    # SQLAlchemy would take another driver for the plain name.
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    for attempt in range(_TABLE_ATTEMPTS, 0, -1):
        try:
            return RDBStorage(url)
        except (IntegrityError, ProgrammingError) as error:
            # Workers that start together make the tables of a new database at once; one of them wins.
            if attempt == 1:
                raise _unreachable(error) from error
            time.sleep(_TABLE_SECONDS)
        except (ImportError, SQLAlchemyError) as error:
            raise _unreachable(error) from error
    raise AssertionError("unreachable: every attempt returns or raises")


def _unreachable(error: Exception) -> StoreError:
    return StoreError(
        "The study's database cannot be used.",
        where="optimize.storage",
        value=str(error).splitlines()[0],
        fix="Start the database, or correct the URL; PostgreSQL needs `pip install leanloop[postgresql]`.",
    )
