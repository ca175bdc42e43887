"""One search worker: takes trials from the shared study until the budget is spent or nothing is left worth trying.

What a trial is, and how it goes through its rungs, is told in `trial`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from leanloop.bundle import Bundle, Metric
from leanloop.core.child import Child
from leanloop.core.contracts import Analysis, Candidates, RecipeRecord, TrialRow
from leanloop.core.errors import ChildError, LeanloopError, MemoryLimitError, TimeLimitError
from leanloop.core.events import emit, progress
from leanloop.core.files import read_json
from leanloop.core.hardware import usable_cores
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.optimize.begun import note_study
from leanloop.optimize.candidate import CURRENT, fail, reason_of
from leanloop.optimize.objective import holds, objective, within_limits
from leanloop.optimize.plan import DUPLICATE, FAILS, NO_TIME, Job, Outcome, Plan
from leanloop.optimize.pulse import Pulse
from leanloop.optimize.recipe import Recipe, recipe_id
from leanloop.optimize.sampler import MARGIN, STATUS, first_shape, next_point, point_of
from leanloop.optimize.space import PROBE, Space, make_space
from leanloop.optimize.study import Clock, ask, end, left_behind, mine, open_study, release_dead, store_url
from leanloop.optimize.warm_start import recall, remember

ROWS, SHORT = "rows", "short"

_AFTERWARDS = 0.05
"""Share of the budget that is kept free to make, measure and score the candidates of the last training."""

_OVER = 0.05
"""Share of the budget by which such a trial may be late before it is ended."""

_LEAST_GAIN = 0.03
"""Share of the best objective that a shape of another ladder must gain to be worth a training."""

_WAIT_SECONDS = 1.0

_LEAST_SECONDS = 1.0
"""A trial's child is not called for less."""

_FAR = 0.4
"""A shape whose metric is worse than the goal's limit by more than this share after a short training is given up."""

_NEVER = 1e6
"""A share that no metric falls by."""

_SHORT_NOISE = 0.02
"""Short scores closer than this share are not told apart."""


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
    space = make_space(bundle, settings, analysis)
    study = open_study(settings, space, bundle.manifest.digest)
    workers, store = settings.optimize.workers, Store(store_url(settings))
    if worker == 0:
        note_study(study.study_name, space, settings, bundle.manifest.digest, store)
    if (held := recall(study, space, bundle, settings.goal, store)) is not None:
        emit("warm_start", strength=held)
    release_dead(study, left_behind(worker, workers))
    with Pulse(store, study.study_name, worker) as pulse:
        cut = Search(bundle, analysis, settings, space, study, destination / "trials", worker, pulse).run()
        remember(study, space, bundle, settings.goal, store)
        # The last thing before the pulse ends: who has ended without the rows of a dead one will not bring them.
        brought = pulse.brought_here(workers)
    rows = [row for one in sorted(brought) for trial in mine(study, one) for row in rows_of(trial)]
    left_out = {**space.left_out, **({"further trials": cut} if cut else {})}
    return write_candidates(bundle, store, rows, left_out, destination, worker)


class Search:
    """The loop of one worker.

    Args:
        bundle: The owner's model and data.
        analysis: Of the same bundle.
        settings: Goal, techniques, budget.
        space: What may be tried.
        study: Shared with the other workers.
        folder: Where the trials' child processes leave their logs and scripts.
        worker: Number of this worker.
        pulse: Tells which of the others live.
    """

    def __init__(
        self,
        bundle: Bundle,
        analysis: Analysis,
        settings: Settings,
        space: Space,
        study: optuna.Study,
        folder: Path,
        worker: int,
        pulse: Pulse,
    ) -> None:
        self._bundle = bundle
        self._original_metric = analysis.metric
        self._settings = settings
        self._goal = settings.goal
        self._space = space
        self._study = study
        self._folder = folder
        self._worker = worker
        self._pulse = pulse
        self._store = Store(store_url(settings))
        self._clock = Clock(self._store, study.study_name, settings.optimize.budget_minutes * 60)

    def run(self) -> str:
        """Take and carry out trials.

        Returns:
            What ended the search before all was tried that is worth a trial; empty where nothing did.
        """
        reserve = _AFTERWARDS * self._clock.budget
        with Child() as child:
            while self._clock.left() > reserve and self._ended() < self._settings.optimize.max_trials:
                dead = self._pulse.dead(self._settings.optimize.workers)
                if released := release_dead(self._study, dead.__contains__):
                    emit("trials_released", trials=released)
                trial = ask(self._study, self._space, self._worker)
                if trial is None:
                    if not self._others_at_work():
                        break
                    # What they find may open more.
                    time.sleep(_WAIT_SECONDS)
                    continue
                try:
                    self._carry_out(trial, child)
                except UpdateFinishedTrialError:
                    # Another worker took us for dead and has the trial again; it finds what was made in the store.
                    emit("trial_lost", trial=trial.number)
                progress(min(self._clock.spent(), self._clock.budget), self._clock.budget, f"trial {trial.number}")
        progress(self._clock.budget, self._clock.budget, "search")
        if next_point(self._space, self._study.get_trials(deepcopy=False)) is None:
            return ""
        if self._ended() >= (most := self._settings.optimize.max_trials):
            return f"the search ended after {most} trials (optimize.max_trials)"
        return f"the budget of {self._settings.optimize.budget_minutes:g} minutes was spent (optimize.budget_minutes)"

    def _others_at_work(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _ended(self) -> int:
        """How many trials count against the limit: those that ended, but for probes, which cost next to nothing."""
        ended = [trial for trial in self._study.get_trials(deepcopy=False) if STATUS in trial.user_attrs]
        return sum(trial.user_attrs[STATUS] != DUPLICATE and trial.params["effort"] != PROBE for trial in ended)

    def _carry_out(self, trial: optuna.Trial, child: Child) -> None:
        started = time.monotonic()
        emit("trial_started", trial=trial.number, **trial.params)
        timeout = self._most_seconds(trial)
        try:
            outcome = self._run_limited(trial, child, timeout)
        except LeanloopError as error:
            # A training that ran into the trial's limits says nothing of the accuracy that it would have reached; what
            # is stronger takes less of either.
            status = NO_TIME if isinstance(error, (TimeLimitError, MemoryLimitError)) else FAILS
            recipe, late = self._groups(trial)[0][0], time.monotonic() - started
            outcome = Outcome(status=status, rows=(failed_row(recipe, self._bundle, trial.number, late, error),))
        # Without what it waits for the study, which another worker may hold.
        seconds = time.monotonic() - started
        trial.set_user_attr(STATUS, outcome.status)
        trial.set_user_attr(ROWS, [row.model_dump(mode="json") for row in outcome.rows])
        trial.set_user_attr(SHORT, outcome.short_metric)
        trial.set_user_attr(MARGIN, max((row.slack for row in outcome.rows if row.slack is not None), default=None))
        done = [row for row in outcome.rows if row.state == "complete"]
        if done:
            self._tell(trial, min(done, key=lambda row: (not holds(row), objective(row, self._goal))))
        else:
            end(self._study, trial, state=TrialState.PRUNED)
        emit(
            "trial_finished",
            trial=trial.number,
            status=outcome.status,
            seconds=round(seconds, 2),
            candidates=[row.candidate_id for row in done],
            reason=outcome.rows[-1].reason,
        )

    def _tell(self, trial: optuna.Trial, best: TrialRow) -> None:
        """End a trial with its best candidate's `OBJECTIVES`, and by how much that exceeds each limit of the goal."""
        assert best.metric is not None, "it is complete"
        assert best.latency_ms is not None
        assert best.size_bytes is not None
        trial.set_constraint("metric", 0.0 if holds(best) else 1.0)
        if self._goal.max_latency_ms is not None:
            trial.set_constraint("latency_ms", best.latency_ms - self._goal.max_latency_ms)
        if self._goal.max_size_bytes is not None:
            trial.set_constraint("size_bytes", best.size_bytes - self._goal.max_size_bytes)
        drop = self._bundle.metric.drop(self._original_metric, best.metric)
        end(self._study, trial, [best.latency_ms, drop, best.size_bytes])

    def _most_seconds(self, trial: optuna.Trial) -> float:
        """What a trial may take.

        The budget is kept, too: a trial is ended where it is late by more than `_OVER`. The original's own shape is
        not: without what trains nothing there would be no result at all.
        """
        own = self._settings.optimize.trial_timeout_seconds
        if not self._groups(trial)[0][0].torch:
            return own
        return min(own, max(_LEAST_SECONDS, self._clock.left() + _OVER * self._clock.budget))

    def _run_limited(self, trial: optuna.Trial, child: Child, timeout_seconds: float) -> Outcome:
        job = Job(
            bundle=str(self._bundle.folder),
            store=store_url(self._settings),
            goal=self._goal,
            threads=max(1, usable_cores() // self._settings.optimize.workers),
            trial=trial.number,
            folder=str((self._folder / str(trial.number)).resolve()),
            timeout_seconds=timeout_seconds,
            memory_bytes=self._settings.optimize.trial_memory_bytes,
        )
        best, probe = self._best(), trial.params["effort"] == PROBE
        # A probe asks whether a shape is worth it, and files made as the best one's were tell that.
        groups = [group for group in self._groups(trial) if not probe or best is None or made_alike(group[0], best)]
        plan = Plan(
            groups=tuple(tuple(recipe.record() for recipe in group) for group in groups),
            best=self._to_beat(trial, best),
            rival=best.candidate_id if probe and best else None,
            short_floor=short_floor(
                self._study.get_trials(deepcopy=False),
                self._bundle.metric,
                self._far(trial.params["shape"]),
                trial.params["shape"],
                trial.params["effort"],
            ),
            deadline=time.time() + self._clock.left() - _AFTERWARDS * self._clock.budget,
            probe=probe,
        )
        return run_plan(child, job, plan)

    def _far(self, shape: str) -> float:
        """A short score so bad that nothing comes back from it; of fresh weights there is none."""
        share = _NEVER if self._space.is_fresh(shape) else self._goal.max_accuracy_drop + _FAR
        return self._bundle.metric.limit(self._original_metric, share)

    def _groups(self, trial: optuna.Trial) -> list[tuple[Recipe, ...]]:
        """All recipes of a trial's shape, grouped by how the files are made."""
        torch = self._space.torch(trial.params["shape"], trial.params["strength"], trial.params["effort"])
        return [self._space.recipes(torch, finish) for finish in self._space.finishes]

    def _to_beat(self, trial: optuna.Trial, best: TrialRow | None) -> float | None:
        """What a shape must be better than, untrained: by more than noise on another ladder than the first.

        So, too, where nothing reshapes: untrained, that is the original itself.
        """
        if best is None:
            return None
        is_first = trial.params["shape"] == first_shape(self._space)
        reshapes = bool(self._groups(trial)[0][0].untrained().torch)
        return objective(best, self._goal) * (1.0 if is_first and reshapes else 1 - _LEAST_GAIN)

    def _best(self) -> TrialRow | None:
        """The best of the candidates that hold the accuracy within the goal's limits."""
        rows = [row for trial in self._study.get_trials(deepcopy=False) for row in rows_of(trial)]
        good = [row for row in rows if holds(row) and within_limits(row, self._goal)]
        return min(good, key=lambda row: objective(row, self._goal), default=None)


def short_floor(trials: Sequence[FrozenTrial], metric: Metric, far: float, shape: str, effort: int) -> float:
    """Short scores below this are hopeless: below ``far``, or below one of the same ladder that failed all the same.

    Only after at least as much training, and of the same ladder: what is pruned scores high early, and a fresh student
    that ends up as good does not.

    Args:
        trials: All so far.
        metric: The owner's.
        far: A score so far below the limit that nothing comes back from it.
        shape: Name of the ladder.
        effort: Of the training that is to follow.
    """
    floors = [far]
    for trial in trials:
        point, short = point_of(trial), trial.user_attrs.get(SHORT)
        failed = trial.user_attrs.get(STATUS) == FAILS and trial.state == TrialState.COMPLETE
        if failed and short is not None and point is not None and point[0] == shape and point[2] >= effort:
            floors.append(metric.limit(short, _SHORT_NOISE))
    return max(floors) if metric.higher_is_better else min(floors)


def charged(rows: Sequence[TrialRow], seconds: float) -> tuple[TrialRow, ...]:
    """A trial's rows, which together tell the seconds that all of it took: the first has the training, too."""
    rest = seconds - sum(row.seconds for row in rows[1:])
    return (rows[0].model_copy(update={"seconds": max(0.0, rest)}), *rows[1:])


def made_alike(recipe: Recipe, best: TrialRow) -> bool:
    """Whether a recipe's files are made by the technique, and for the target, of the best candidate's."""
    its = Recipe.from_record(best.recipe)
    mine, other = (None if graph is None else graph.technique for graph in (recipe.graph, its.graph))
    return (recipe.target, mine) == (its.target, other)


def failed_row(recipe: Recipe, bundle: Bundle, trial: int, seconds: float, error: LeanloopError) -> TrialRow:
    """The log line of a trial that failed as a whole."""
    return TrialRow(
        trial=trial,
        recipe=recipe.record(),
        candidate_id=recipe_id(recipe, bundle.manifest.digest),
        state="failed",
        rung="latency",
        latency_ms=None,
        metric=None,
        size_bytes=None,
        seconds=seconds,
        reason=reason_of(error),
    )


def run_plan(child: Child, job: Job, plan: Plan) -> Outcome:
    """Run one trial in a child process; a recipe that brings it down is kept as a failure, and left out.

    Returns:
        Its outcome, whose rows together tell the seconds that all of it took.

    Raises:
        LeanloopError: The whole trial failed, or its time was spent.
    """
    started = time.monotonic()
    while True:
        left = job.timeout_seconds - (time.monotonic() - started)
        try:
            found = child.call(
                "leanloop.optimize.trial:run_trial",
                {"job": job.model_dump(mode="json"), "plan": plan.model_dump(mode="json")},
                folder=Path(job.folder),
                timeout_seconds=max(left, _LEAST_SECONDS),
                memory_bytes=job.memory_bytes,
            )
            outcome = Outcome.model_validate(found)
            return outcome.model_copy(update={"rows": charged(outcome.rows, time.monotonic() - started)})
        except ChildError as error:
            current = Path(job.folder) / CURRENT
            record = read_json(current) if current.exists() else None
            if record is None:
                raise
            current.unlink()
            fail(Recipe.from_record(RecipeRecord.model_validate(record)), job, job.workshop(), error)
            if job.timeout_seconds - (time.monotonic() - started) < _LEAST_SECONDS:
                raise


def rows_of(trial: FrozenTrial) -> list[TrialRow]:
    """The log lines of an ended trial."""
    return [TrialRow.model_validate(row) for row in trial.user_attrs.get(ROWS, ())]


def write_candidates(
    bundle: Bundle, store: Store, rows: Sequence[TrialRow], left_out: Mapping[str, str], destination: Path, worker: int
) -> Candidates:
    """Write ``candidates.json`` and the folders of the complete candidates among some trials' rows."""
    identities = tuple(dict.fromkeys(row.candidate_id for row in rows if row.state == "complete"))
    for identity in identities:
        store.get_folder(f"candidates/{identity}", destination / identity)
    candidates = Candidates(
        bundle_digest=bundle.manifest.digest,
        worker=worker,
        candidates=identities,
        trials=tuple(rows),
        left_out=dict(left_out),
    )
    candidates.save(destination)
    return candidates
