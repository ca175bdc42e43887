"""A trial, in a limited child process: one shape, through rungs that cost more and more.

1. ``latency``: the untrained shape is made into every target's files and timed. If none is better than the best
   candidate that holds the accuracy, or none is within the goal's limits, nothing is trained.
2. ``short``: a short training, to see hopeless shapes early, and to know how long the full one takes. A student that
   goes on learning is neither hopeless nor long in training, and skips it.
3. ``full``: full training; then the files that were timed best are made, measured and scored. Where integers alone are
   to blame that they lose too much, what mends that (`TorchTechnique.mends`) trains on from there.

What is found is kept in the store (``latencies/``, ``candidates/``, ``failures/``), and never done again, in a later
run either.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from leanloop.benchmark import batch_of, quick_ratio
from leanloop.core.contracts import NO_TIME_LEFT, Candidate, ModelFiles, TrialRow
from leanloop.core.errors import TrialError
from leanloop.core.events import emit
from leanloop.core.hardware import hardware_id
from leanloop.core.settings import GoalSettings
from leanloop.optimize.apply import Prefix, make_files, make_prefix
from leanloop.optimize.candidate import (
    fail,
    failed_before,
    finish_one,
    latency_of,
    measure,
    original_validation,
    row,
    working_on,
)
from leanloop.optimize.objective import holds, objective, within_limits
from leanloop.optimize.plan import ABLE, FAILS, HOLDS, NO_TIME, NOT_ENOUGH, Job, Outcome, Plan, Status, Timed
from leanloop.optimize.recipe import Recipe, prefix_id, recipe_id
from leanloop.optimize.techniques import TECHNIQUES, Config, GraphTechnique, TorchTechnique, Workshop
from leanloop.runtime import open_session

COMPETITIVE = 1.15
"""Files of one shape within this factor of its best are finished too: the benchmark decides between them."""

_SCAN_SECONDS = 0.15

_RIVAL_ROUNDS, _RIVAL_SECONDS = 9, 0.03

_MOST_OF_THE_LIMIT = 0.9
"""Of a trial's time limit may have passed when its training ends: files are made and measured after it."""

_SLOWER = 1.15
"""A full training runs into more of the other workers' measurements than the short one that it is judged by."""

Group = tuple[Recipe, ...]


def run_trial(job: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Take one shape through the rungs.

    Args:
        job: A `Job` document.
        plan: A `Plan` document.

    Returns:
        An `Outcome` document.

    Raises:
        TrialError: The shape cannot be made, or no target takes it.
    """
    work, todo = Job.model_validate(job), Plan.model_validate(plan)
    workshop = work.workshop()
    groups = [tuple(map(Recipe.from_record, group)) for group in todo.groups]
    return _rungs(groups, todo, work, workshop).model_dump(mode="json")


def _rungs(groups: list[Group], plan: Plan, job: Job, workshop: Workshop) -> Outcome:
    first, short_metric, cut, started = groups[0][0], None, False, time.monotonic()
    if first.torch:
        emit("trial_rung", trial=job.trial, rung="latency")
        timed = [_scan(group[0].untrained(), job, workshop, plan.rival) for group in groups]
        groups = hopeful(list(zip(groups, timed, strict=True)), plan.best, job.goal)
        if not groups:
            return _not_enough(first, timed, job, workshop)
        if plan.probe:
            return _timed(ABLE, first, timed, "untrained better than what holds the accuracy so far", job, workshop)
        first = groups[0][0]
    if first.trains and plan.short_floor is not None and not _is_trained(first, workshop):
        emit("trial_rung", trial=job.trial, rung="short")
        short_metric, estimate = _short_training(first, job, workshop)
        if not workshop.bundle.metric.meets(short_metric, plan.short_floor):
            reason = f"hopeless: {short_metric:.4g} after a short training, {plan.short_floor:.4g} is asked for"
            return _stopped(FAILS, first, short_metric, reason, job, workshop)
        left = _seconds_left(plan, job, started)
        groups = fitted(groups, left / estimate)
        if not groups:
            return _stopped(NO_TIME, first, short_metric, _no_time(estimate, left), job, workshop)
        cut = groups[0][0] != first
        first = groups[0][0]
    emit("trial_rung", trial=job.trial, rung="full")
    with working_on(None, job):
        make_prefix(first.torch, workshop)
    rows: tuple[TrialRow, ...] = ()
    for group in groups:
        if rows and _is_late(group, plan):
            cut = True
            continue
        lines, cut_short = _finish(group, plan, job, workshop, started)
        cut = cut or cut_short
        rows += lines
    # What fails after a training that was cut, or before all was tried, says nothing of the whole.
    failed = NO_TIME if cut else FAILS
    return Outcome(status=HOLDS if any(map(holds, rows)) else failed, rows=rows, short_metric=short_metric)


def hopeful(timed: Sequence[tuple[Group, Timed]], best: float | None, goal: GoalSettings) -> list[Group]:
    """The groups worth training for, best first: within the limits, better than the best so far, near these' best.

    Latency and size hardly depend on the weights, so what is slower untrained stays slower.
    """
    able = [
        (objective(one, goal), group)
        for group, one in timed
        if not one.reason and within_limits(one, goal) and (best is None or objective(one, goal) < best)
    ]
    able.sort(key=lambda pair: pair[0])
    return [group for value, group in able if value <= COMPETITIVE * able[0][0]]


def fitted(groups: Sequence[Group], share: float) -> list[Group]:
    """The groups with their training cut to a share of its time where it does not fit whole; none if too little."""
    if share >= 1:
        return list(groups)
    cut = [tuple(recipe.scaled(share) for recipe in group) for group in groups]
    return [tuple(filter(None, group)) for group in cut if group[0]]


def beside(rival: str, model: ModelFiles, folder: Path, job: Job, workshop: Workshop) -> float:
    """Latency of a model in milliseconds as it would have been when the rival was measured.

    The two are timed in turns: what the machine does besides changes within seconds, and both have the same of it.
    """
    with tempfile.TemporaryDirectory(prefix="leanloop-rival-") as scratch, ExitStack() as stack:
        place = Path(scratch) / rival
        workshop.store.get_folder(f"candidates/{rival}", place)
        made = Candidate.load(place)
        before = latency_of(made, place, job, workshop)
        sessions = []
        for one, where in ((model, folder), (made.model, place)):
            session = open_session(one, where, threads=job.goal.threads, bundle=workshop.bundle)
            stack.callback(session.close)
            sessions.append(session)
        batch = batch_of(workshop.bundle.samples, job.goal.batch_size)
        return before * quick_ratio(sessions[0], sessions[1], batch, rounds=_RIVAL_ROUNDS, seconds=_RIVAL_SECONDS)


def _scan(recipe: Recipe, job: Job, workshop: Workshop, rival: str | None = None) -> Timed:
    goal = job.goal
    identity = recipe_id(recipe, workshop.bundle.manifest.digest)
    key = f"latencies/{identity}-{hardware_id()}-b{goal.batch_size}-t{goal.threads}.json"
    known = workshop.store.get_json(key)
    if known is not None:
        return Timed.model_validate(known)
    if failure := failed_before(recipe, job, workshop):
        return Timed(latency_ms=None, size_bytes=None, reason=failure)
    with tempfile.TemporaryDirectory(prefix="leanloop-scan-") as scratch:
        try:
            with working_on(recipe, job):
                model = make_files(recipe, workshop, Path(scratch))
                if rival is None:
                    latency = measure(model, Path(scratch), job, workshop.bundle, _SCAN_SECONDS)
                else:
                    latency = beside(rival, model, Path(scratch), job, workshop)
        except Exception as error:  # noqa: BLE001 - whatever a converter raises is this recipe's result, and is shown
            return Timed(latency_ms=None, size_bytes=None, reason=fail(recipe, job, workshop, error))
    timed = Timed(latency_ms=latency, size_bytes=model.size_bytes)
    workshop.store.put_json(key, timed.model_dump())
    return timed


def _not_enough(recipe: Recipe, timed: list[Timed], job: Job, workshop: Workshop) -> Outcome:
    if all(one.reason for one in timed):
        raise TrialError("No target takes this shape.", value=timed[0].reason)
    reason = "untrained no better than what holds the accuracy already, or over a limit of the goal"
    return _timed(NOT_ENOUGH, recipe, timed, reason, job, workshop)


def _timed(status: Status, recipe: Recipe, timed: list[Timed], reason: str, job: Job, workshop: Workshop) -> Outcome:
    made = [one for one in timed if not one.reason]
    best = min(made, key=lambda one: objective(one, job.goal))
    line = row(
        recipe,
        job,
        workshop,
        state="pruned",
        rung="latency",
        latency_ms=best.latency_ms,
        size_bytes=best.size_bytes,
        reason=reason,
    )
    return Outcome(status=status, rows=(line,))


def _is_late(group: Group, plan: Plan) -> bool:
    """Whether a group is not begun any more; the original's own files are, but for those that take minutes."""
    technique = group[0].graph and TECHNIQUES[group[0].graph.technique]
    lengthy = isinstance(technique, GraphTechnique) and technique.lengthy
    return (bool(group[0].torch) or lengthy) and time.time() > plan.deadline


def _finish(
    group: Group, plan: Plan, job: Job, workshop: Workshop, started: float
) -> tuple[tuple[TrialRow, ...], bool]:
    """The first recipe of a group; while there is time the next ones, until one holds the accuracy.

    Returns:
        A row of each; whether time was short for one that might have held it.
    """
    rows: list[TrialRow] = []
    cut = False
    for recipe in group:
        if rows and time.time() > plan.deadline:
            return tuple(rows), True
        if rows and recipe.torch != group[0].torch:
            if not any(line.state == "complete" for line in rows) or not _floats_hold(group[0], job, workshop):
                continue
            estimate = _mending_seconds(recipe, job, workshop)
            if estimate > (left := _seconds_left(plan, job, started)):
                reason, cut = _no_time(estimate, left), True
                rows.append(row(recipe, job, workshop, state="pruned", rung="short", reason=reason))
                continue
        rows.append(finish_one(recipe, job, workshop))
        if holds(rows[-1]):
            return tuple(rows), False
    return tuple(rows), cut


def _floats_hold(recipe: Recipe, job: Job, workshop: Workshop) -> bool:
    """Whether the trained module itself is within the goal, so that what its files lose is due to their integers."""
    bundle, originals = workshop.bundle, original_validation(workshop)
    with working_on(None, job):
        metric = _score_of(make_prefix(recipe.torch, workshop), workshop)
    original = bundle.score(originals, bundle.split("validation"), originals)
    return bundle.metric.meets(metric, bundle.metric.limit(original, job.goal.max_accuracy_drop))


def _mending_seconds(recipe: Recipe, job: Job, workshop: Workshop) -> float:
    """The seconds that the last training of a recipe is expected to take, after those before it."""
    *before, last = recipe.torch
    technique = TECHNIQUES[last.technique]
    assert isinstance(technique, TorchTechnique)
    assert technique.shorten is not None
    with working_on(None, job):
        short = make_prefix((*before, technique.shorten(last, workshop.bundle)), workshop)
    return _SLOWER * _seconds_of((last,), short, workshop)


def _seconds_left(plan: Plan, job: Job, started: float) -> float:
    """Until a training must have ended: by the budget, and by the trial's own limit."""
    left = plan.deadline - time.time()
    if not job.timeout_seconds:
        return left
    return min(left, _MOST_OF_THE_LIMIT * job.timeout_seconds - (time.monotonic() - started))


def _no_time(estimate: float, left: float) -> str:
    return f"{NO_TIME_LEFT}: full training takes about {estimate:.0f} s, {max(left, 0):.0f} s are left"


def _is_trained(recipe: Recipe, workshop: Workshop) -> bool:
    return workshop.store.has_folder(f"prefixes/{prefix_id(recipe.torch, workshop.bundle.manifest.digest)}")


def _short_training(recipe: Recipe, job: Job, workshop: Workshop) -> tuple[float, float]:
    """The metric after a short training, and the seconds that the full one is expected to take."""
    short = recipe.shortened(workshop.bundle)
    with working_on(None, job):
        prefix = make_prefix(short.torch, workshop)
    return _score_of(prefix, workshop), _SLOWER * _seconds_of(recipe.torch, prefix, workshop)


def _score_of(prefix: Prefix, workshop: Workshop) -> float:
    """A trained module's metric on validation."""
    validation = workshop.bundle.split("validation")
    outputs = workshop.bundle.predict(prefix.module, validation)
    return workshop.bundle.score(outputs, validation, original_validation(workshop))


def _stopped(status: Status, recipe: Recipe, short_metric: float, reason: str, job: Job, workshop: Workshop) -> Outcome:
    line = row(recipe, job, workshop, state="pruned", rung="short", metric=short_metric, reason=reason)
    return Outcome(status=status, rows=(line,), short_metric=short_metric)


def _seconds_of(configs: Sequence[Config], short: Prefix, workshop: Workshop) -> float:
    """What trainings take, each by what a sample took in a short one of its technique."""
    pairs = [(config, TECHNIQUES[config.technique]) for config in configs]
    return sum(
        technique.work(config, workshop.bundle) * short.seconds_per_sample[technique.name]
        for config, technique in pairs
        if isinstance(technique, TorchTechnique) and technique.work is not None
    )
