"""One search worker: takes trials from the shared study until the budget is spent or nothing is left worth trying.

Each trial is a shape (or the original's own), and goes through rungs that cost more and more:

1. ``latency``: the untrained shape is made into every target's files and timed. If none is better than the best candidate that
   holds the accuracy, or none meets the goal's limits, nothing is trained.
2. ``short``: a short training, to see hopeless shapes early, and to know how long the full one takes.
3. ``full``: full training; then the files that were timed best are made, measured and scored.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from leanloop.bundle import Bundle
from leanloop.core.child import run_limited
from leanloop.core.contracts import Analysis, Candidates, RecipeRecord, TrialRow
from leanloop.core.errors import ChildError, LeanloopError, TrialError
from leanloop.core.events import emit, progress
from leanloop.core.files import atomic_folder, read_json
from leanloop.core.hardware import usable_cores
from leanloop.core.settings import GoalSettings, Settings
from leanloop.core.store import Store
from leanloop.optimize.recipe import Recipe, recipe_id
from leanloop.optimize.sampler import FAILS, HOLDS, NO_TIME, NOT_ENOUGH, STATUS
from leanloop.optimize.space import Space, make_space
from leanloop.optimize.study import Clock, ask, mine, open_study, release_dead, store_url
from leanloop.optimize.trial import CURRENT, Job, Outcome, Plan, Timed

ROWS, SHORT = "rows", "short"

COMPETITIVE = 1.15
"""Files of one shape within this factor of its best are finished too: the benchmark decides between them."""

_AFTERWARDS_SECONDS = 15.0
"""What making, measuring and scoring a trained shape's candidates takes; kept free when a training is begun."""


@dataclass(frozen=True)
class Ruled:
    """How a trial ended, in the words of `sampler`."""

    status: str
    rows: tuple[TrialRow, ...]
    short_metric: float | None = None


def search_worker(bundle: Bundle, analysis: Analysis, settings: Settings, destination: Path, worker: int) -> Candidates:
    """Search as one of ``settings.optimize.workers``, and write this worker's candidates.

    A worker that was killed goes on where it was when it is called again: what is finished is in the store.

    Args:
        bundle: The owner's model and data.
        analysis: Of the same bundle.
        settings: Goal, techniques, budget.
        destination: Folder to write ``candidates.json`` and one folder per candidate into.
        worker: Number of this worker, from 0.
    """
    space = make_space(bundle, settings)
    study = open_study(settings, space, bundle.manifest.digest)
    release_dead(study, space, worker, settings.optimize.workers)
    Search(bundle, analysis, settings, space, study, worker).run()
    return _write(bundle, Store(store_url(settings)), study, space, destination, worker)


class Search:
    """The loop of one worker."""

    def __init__(
        self, bundle: Bundle, analysis: Analysis, settings: Settings, space: Space, study: optuna.Study, worker: int
    ) -> None:
        self._bundle = bundle
        self._analysis = analysis
        self._settings = settings
        self._space = space
        self._study = study
        self._worker = worker
        self._store = Store(store_url(settings))
        self._clock = Clock(self._store, study.study_name, settings.optimize.budget_minutes * 60)
        self._threads = max(1, usable_cores() // settings.optimize.workers)

    def run(self) -> None:
        """Take and carry out trials."""
        while self._clock.left() > 0 and self._ended() < self._settings.optimize.max_trials:
            trial = ask(self._study, self._space, self._worker)
            if trial is None:
                break
            self._carry_out(trial)
            progress(min(self._clock.spent(), self._clock.budget), self._clock.budget, f"trial {trial.number}")
        progress(self._clock.budget, self._clock.budget, "search")

    def _ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    def _carry_out(self, trial: optuna.Trial) -> None:
        started = time.monotonic()
        emit("trial_started", trial=trial.number, **trial.params)
        try:
            ruled = self._rungs(trial)
        except LeanloopError as error:
            row = self._row(trial, self._recipes(trial)[0][0], "failed", "latency", reason=error.what)
            ruled = Ruled(FAILS, (row,))
        rows = [row.model_dump(mode="json") for row in ruled.rows]
        trial.set_user_attr(STATUS, ruled.status)
        trial.set_user_attr(ROWS, rows)
        trial.set_user_attr(SHORT, ruled.short_metric)
        done = [row for row in ruled.rows if row.state == "complete"]
        if done:
            self._study.tell(trial, min(objective(row, self._settings.goal) for row in done))
        else:
            self._study.tell(trial, state=TrialState.PRUNED)
        emit(
            "trial_finished",
            trial=trial.number,
            status=ruled.status,
            seconds=round(time.monotonic() - started, 2),
            candidates=[row.candidate_id for row in done],
            reason=ruled.rows[0].reason if ruled.rows else "",
        )

    def _recipes(self, trial: optuna.Trial) -> list[tuple[Recipe, ...]]:
        torch = self._space.torch(trial.params["shape"], trial.params["strength"], trial.params["effort"])
        return [self._space.recipes(torch, finish) for finish in self._space.finishes]

    def _rungs(self, trial: optuna.Trial) -> Ruled:
        groups = self._recipes(trial)
        if groups[0][0].torch:
            emit("trial_rung", trial=trial.number, rung="latency")
            timed = self._scan(trial, [group[0].untrained() for group in groups])
            pairs = [(group, time) for group, time in zip(groups, timed, strict=True) if time.latency_ms is not None]
            if not pairs:
                raise TrialError(f"No target takes this shape: {timed[0].reason}")
            groups = self._hopeful(pairs)
            if not groups:
                group, best = min(pairs, key=lambda pair: objective(pair[1], self._settings.goal))
                row = self._row(trial, group[0], "pruned", "latency", best, "no better than what holds the accuracy")
                return Ruled(NOT_ENOUGH, (row,))
        return self._finish(trial, groups)

    def _hopeful(self, pairs: list[tuple[tuple[Recipe, ...], Timed]]) -> list[tuple[Recipe, ...]]:
        # Latencies and sizes hardly depend on the weights, so what is slower untrained stays slower.
        goal, best = self._settings.goal, self._best()
        able = sorted(
            (
                (objective(timed, goal), group)
                for group, timed in pairs
                if within_limits(timed, goal) and (best is None or objective(timed, goal) < best)
            ),
            key=lambda pair: pair[0],
        )
        return [group for value, group in able if value <= COMPETITIVE * able[0][0]]

    def _best(self) -> float | None:
        """The best objective of all candidates that hold the accuracy within the goal's limits."""
        rows = [
            row
            for trial in self._study.get_trials(deepcopy=False)
            for row in map(TrialRow.model_validate, trial.user_attrs.get(ROWS, ()))
            if row.state == "complete" and row.reason == HOLDS_REASON and within_limits(row, self._settings.goal)
        ]
        return min((objective(row, self._settings.goal) for row in rows), default=None)
