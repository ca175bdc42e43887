"""What a trial does, in a limited child: `scan` times a shape before anything is trained, `finish` does the rest.

Both keep what they find in the store, successes (``latencies/``, ``candidates/``) and failures (``failures/``), so that
neither is ever done twice, in a later run either.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from leanloop.benchmark import noninferiority, quick_latency
from leanloop.benchmark.latency import batch_of
from leanloop.bundle import Arrays, Bundle
from leanloop.convert import original_outputs
from leanloop.core.contracts import Candidate, ModelFiles, RecipeRecord, Record, TrialRow
from leanloop.core.errors import LeanloopError, TrialError
from leanloop.core.events import emit
from leanloop.core.files import write_json, write_text
from leanloop.core.hardware import hardware_id
from leanloop.core.names import code_version
from leanloop.core.settings import GoalSettings
from leanloop.core.store import Store
from leanloop.optimize.apply import keep_checkpoint, make_files, make_prefix
from leanloop.optimize.objective import HOLDS_ACCURACY, holds
from leanloop.optimize.recipe import Recipe, prefix_id, recipe_id
from leanloop.optimize.techniques import TECHNIQUES, TorchTechnique, Workshop
from leanloop.runtime import open_session, predict

CURRENT = "current.json"
"""In a child's folder: the recipe it is working on, so that a crash is laid at the right door."""

OUTPUTS = "validation.npz"
"""In a candidate's folder: its first output on validation."""

_SCAN_SECONDS = 0.15
_MEASURE_SECONDS = 0.3


class Job(Record):
    """What both kinds of work need to know.

    Attributes:
        bundle: Its folder.
        store: URL.
        goal: Batch size and threads to measure at, and the accuracy to hold.
        threads: CPU threads that this worker may use to train.
        trial: Number in the study.
        folder: Of this child.
    """

    bundle: str
    store: str
    goal: GoalSettings
    threads: int
    trial: int
    folder: str

    def workshop(self) -> Workshop:
        """The opened bundle and store."""
        return Workshop(Bundle(Path(self.bundle)), Store(self.store), self.threads)


class Timed(Record):
    """How fast and how large a recipe's files are; a reason instead when they cannot be made."""

    latency_ms: float | None
    size_bytes: int | None
    reason: str = ""


class Plan(Record):
    """What to finish once the shared PyTorch techniques are done.

    Attributes:
        groups: Recipes with the same PyTorch techniques. In each group the first that holds the accuracy ends it.
        short_floor: A short score worse than this cannot end well.
        seconds_left: A full training that takes longer is not begun.
    """

    groups: tuple[tuple[RecipeRecord, ...], ...]
    short_floor: float | None
    seconds_left: float


class Outcome(Record):
    """How a trial ended.

    Attributes:
        state: ``pruned`` after the short training, or ``complete``.
        out_of_time: Pruned because the full training would not end in time.
        short_metric: On validation, after the short training.
        rows: One per recipe.
    """

    state: Literal["complete", "pruned"]
    out_of_time: bool = False
    short_metric: float | None
    rows: tuple[TrialRow, ...]


def scan(job: dict[str, Any], recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time recipes as they are, without any training.

    Returns:
        One `Timed` document per recipe, in order.
    """
    work = Job.model_validate(job)
    workshop = work.workshop()
    return [
        _scan_one(Recipe.from_record(RecipeRecord.model_validate(one)), work, workshop).model_dump() for one in recipes
    ]


def _scan_one(recipe: Recipe, job: Job, workshop: Workshop) -> Timed:
    digest, goal = workshop.bundle.manifest.digest, job.goal
    key = f"latencies/{recipe_id(recipe, digest)}-{hardware_id()}-b{goal.batch_size}-t{goal.threads}.json"
    known = workshop.store.get_json(key)
    if known is not None:
        return Timed.model_validate(known)
    with _working_on(recipe, job), tempfile.TemporaryDirectory(prefix="leanloop-scan-") as scratch:
        try:
            model = make_files(recipe, workshop, Path(scratch))
            latency = _latency(model, Path(scratch), job, workshop.bundle, _SCAN_SECONDS)
            timed = Timed(latency_ms=latency, size_bytes=model.size_bytes)
        except Exception as error:  # noqa: BLE001 - whatever a converter raises is this recipe's result, and is shown
            timed = Timed(latency_ms=None, size_bytes=None, reason=_reason(error))
    workshop.store.put_json(key, timed.model_dump())
    return timed


def finish(job: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Train (briefly first, then in full), then make, measure and score the candidates.

    Returns:
        An `Outcome` document.
    """
    work, todo = Job.model_validate(job), Plan.model_validate(plan)
    workshop = work.workshop()
    groups = [[Recipe.from_record(record) for record in group] for group in todo.groups]
    first = groups[0][0]
    short_metric = None
    if first.trains and not _is_trained(first, workshop):
        pruned = _short_training(first, todo, work, workshop)
        short_metric = pruned.short_metric
        if pruned.state == "pruned":
            return pruned.model_dump(mode="json")
    emit("trial_rung", trial=work.trial, rung="full")
    with _working_on(None, work):
        make_prefix(first.torch, workshop)
    rows: list[TrialRow] = []
    for group in groups:
        for recipe in group:
            rows.append(finish_one(recipe, work, workshop))
            if holds(rows[-1]):
                break
    return Outcome(state="complete", short_metric=short_metric, rows=tuple(rows)).model_dump(mode="json")


def finish_one(recipe: Recipe, job: Job, workshop: Workshop) -> TrialRow:
    """One candidate: made, measured, scored on validation and kept; or its failure."""
    store, identity = workshop.store, recipe_id(recipe, workshop.bundle.manifest.digest)
    failure = store.get_json(f"failures/{identity}.json")
    if failure is not None:
        return _row(recipe, job, workshop, state="failed", reason=f"failed before: {failure['reason']}")
    with tempfile.TemporaryDirectory(prefix="leanloop-candidate-") as scratch:
        folder = Path(scratch) / identity
        cached = store.get_folder(f"candidates/{identity}", folder)
        if not cached:
            try:
                with _working_on(recipe, job):
                    _make_candidate(recipe, identity, job, workshop, folder)
            except Exception as error:  # noqa: BLE001 - whatever a converter raises is this recipe's result, and is shown
                return _row(recipe, job, workshop, state="failed", reason=fail(recipe, workshop, error))
            store.put_folder(f"candidates/{identity}", folder)
        candidate = Candidate.load(folder)
        with np.load(folder / OUTPUTS, allow_pickle=False) as archive:
            kept = holds_accuracy(archive["output"], workshop, job.goal)
    return _row(
        recipe,
        job,
        workshop,
        state="complete",
        latency_ms=candidate.latency_ms,
        metric=candidate.metric,
        size_bytes=candidate.size_bytes,
        seconds=0.0 if cached else candidate.seconds,
        reason=HOLDS_ACCURACY if kept else "loses too much accuracy",
    )


def fail(recipe: Recipe, workshop: Workshop, error: Exception) -> str:
    """Keep a recipe's failure, so that it is not tried again; returns the reason."""
    identity, reason = recipe_id(recipe, workshop.bundle.manifest.digest), _reason(error)
    workshop.store.put_json(f"failures/{identity}.json", {"reason": reason, "recipe": recipe.record().model_dump()})
    return reason


def _make_candidate(recipe: Recipe, identity: str, job: Job, workshop: Workshop, folder: Path) -> None:
    started, bundle = time.monotonic(), workshop.bundle
    model = make_files(recipe, workshop, folder)
    training_seconds = make_prefix(recipe.torch, workshop).training_seconds if recipe.torch else 0.0
    validation = bundle.split("validation")
    session = open_session(model, folder, threads=job.threads)
    try:
        outputs = predict(session, validation, outputs=bundle.manifest.outputs)
    finally:
        session.close()
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise TrialError("The candidate answers NaN or infinity.")
    np.savez(folder / OUTPUTS, allow_pickle=False, output=outputs[bundle.manifest.outputs[0]])
    keep_checkpoint(recipe, workshop, folder)
    Candidate(
        id=identity,
        recipe=recipe.record(),
        bundle_digest=bundle.manifest.digest,
        model=model,
        metric=bundle.score(outputs, validation, original_validation(workshop)),
        latency_ms=_latency(model, folder, job, bundle, _MEASURE_SECONDS),
        size_bytes=model.size_bytes,
        seconds=time.monotonic() - started + training_seconds,
        training_seconds=training_seconds,
        trial=job.trial,
        code_version=code_version(),
        hardware_id=hardware_id(),
    ).save(folder)
    _write_replay(recipe, job, folder)


def holds_accuracy(output: np.ndarray, workshop: Workshop, goal: GoalSettings) -> bool:
    """Whether a candidate's first output on validation keeps the metric that the goal asks for.

    The drop must be within the goal, and noise must not stand against it: the upper one-sided 95 % bound of the
    paired drop is within the goal too, or the candidate ties with the original.
    """
    bundle = workshop.bundle
    reference = original_validation(workshop)[bundle.manifest.outputs[0]]
    targets = bundle.split("validation").targets if bundle.metric.needs_labels else reference
    assert targets is not None
    original = bundle.metric.score(reference, targets)
    margin = abs(bundle.metric.limit(original, goal.max_accuracy_drop) - original)
    found = noninferiority(bundle.metric, reference, output, targets, margin=margin)
    if found.drop > margin or found.holds:
        return found.drop <= margin
    return -noninferiority(bundle.metric, output, reference, targets, margin=margin).upper_bound <= 0


def original_validation(workshop: Workshop) -> Arrays:
    """The original's outputs on validation, computed once per bundle and kept in the store."""
    key = f"originals/{workshop.bundle.manifest.digest}"
    with tempfile.TemporaryDirectory(prefix="leanloop-original-") as scratch:
        folder = Path(scratch) / "original"
        if not workshop.store.get_folder(key, folder):
            folder.mkdir()
            torch.set_num_threads(workshop.threads)
            outputs = original_outputs(workshop.bundle, workshop.bundle.split("validation"))
            np.savez(folder / "validation.npz", allow_pickle=False, **outputs)
            workshop.store.put_folder(key, folder)
        with np.load(folder / "validation.npz", allow_pickle=False) as archive:
            return {name: archive[name] for name in workshop.bundle.manifest.outputs}


def replay(bundle: str, recipe: dict[str, Any], goal: dict[str, Any], threads: int) -> dict[str, Any]:
    """Make a candidate again from nothing, in a store of its own: what a candidate's ``reproduce.sh`` calls.

    Returns:
        Its id and its metric on validation.
    """
    with tempfile.TemporaryDirectory(prefix="leanloop-replay-") as store:
        job = Job(
            bundle=bundle,
            store=store,
            goal=GoalSettings.model_validate(goal),
            threads=threads,
            trial=-1,
            folder=store,
        )
        again = Recipe.from_record(RecipeRecord.model_validate(recipe))
        row = finish_one(again, job, job.workshop())
    return {"candidate": row.candidate_id, "metric": row.metric, "reason": row.reason}


def _write_replay(recipe: Recipe, job: Job, folder: Path) -> None:
    call = {
        "function": "leanloop.optimize.trial:replay",
        "arguments": {
            "bundle": job.bundle,
            "recipe": recipe.record().model_dump(mode="json"),
            "goal": job.goal.model_dump(mode="json"),
            "threads": job.threads,
        },
    }
    write_text(folder / "call.json", json.dumps(call, indent=2))
    write_text(
        folder / "reproduce.sh",
        "#!/bin/sh\n# Makes this candidate again from the bundle named in call.json.\n"
        'cd "$(dirname "$0")" && exec python -m leanloop.core.child call.json\n',
    )
    (folder / "reproduce.sh").chmod(0o755)


def _is_trained(recipe: Recipe, workshop: Workshop) -> bool:
    return workshop.store.has_folder(f"prefixes/{prefix_id(recipe.torch, workshop.bundle.manifest.digest)}")


def _short_training(recipe: Recipe, plan: Plan, job: Job, workshop: Workshop) -> Outcome:
    emit("trial_rung", trial=job.trial, rung="short")
    short, bundle = recipe.shortened(workshop.bundle), workshop.bundle
    with _working_on(None, job):
        prefix = make_prefix(short.torch, workshop)
    validation = bundle.split("validation")
    metric = bundle.score(bundle.predict(prefix.module, validation), validation, original_validation(workshop))
    estimate = prefix.training_seconds * _work(recipe, workshop) / _work(short, workshop)
    hopeless = plan.short_floor is not None and not bundle.metric.meets(metric, plan.short_floor)
    if hopeless:
        reason = (
            f"hopeless: {metric:.4g} after a short training, where {plan.short_floor:.4g} is the least to go on from"
        )
    elif estimate > plan.seconds_left:
        reason = f"no time: full training takes about {estimate:.0f} s, and {max(plan.seconds_left, 0):.0f} s are left"
    else:
        return Outcome(state="complete", short_metric=metric, rows=())
    row = _row(recipe, job, workshop, state="pruned", rung="short", metric=metric, reason=reason)
    return Outcome(state="pruned", out_of_time=not hopeless, short_metric=metric, rows=(row,))


def _work(recipe: Recipe, workshop: Workshop) -> float:
    pairs = [(config, TECHNIQUES[config.technique]) for config in recipe.torch]
    return sum(
        technique.work(config, workshop.bundle)
        for config, technique in pairs
        if isinstance(technique, TorchTechnique) and technique.work is not None
    )


def _latency(model: ModelFiles, folder: Path, job: Job, bundle: Bundle, seconds: float) -> float:
    session = open_session(model, folder, threads=job.goal.threads, bundle=bundle)
    try:
        return quick_latency(session, batch_of(bundle.samples, job.goal.batch_size), seconds=seconds)
    finally:
        session.close()


@contextmanager
def _working_on(recipe: Recipe | None, job: Job) -> Iterator[None]:
    path = Path(job.folder) / CURRENT
    write_json(path, None if recipe is None else recipe.record().model_dump(mode="json"))
    try:
        yield
    finally:
        path.unlink()


def _row(
    recipe: Recipe,
    job: Job,
    workshop: Workshop,
    *,
    state: Literal["complete", "pruned", "failed"],
    rung: Literal["latency", "short", "full"] = "full",
    latency_ms: float | None = None,
    metric: float | None = None,
    size_bytes: int | None = None,
    seconds: float = 0.0,
    reason: str,
) -> TrialRow:
    return TrialRow(
        trial=job.trial,
        recipe=recipe.record(),
        candidate_id=recipe_id(recipe, workshop.bundle.manifest.digest),
        state=state,
        rung=rung,
        latency_ms=latency_ms,
        metric=metric,
        size_bytes=size_bytes,
        seconds=seconds,
        reason=reason,
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, LeanloopError):
        return f"{error.what} {error.value}" if error.value is not None else error.what
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
