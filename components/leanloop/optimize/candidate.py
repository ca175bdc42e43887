"""One candidate: made from its recipe, measured, scored, and kept in the store for good, as a failure too."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leanloop.benchmark import noninferiority, quick_latency
from leanloop.benchmark.latency import batch_of
from leanloop.bundle import Arrays, Bundle, Metric
from leanloop.core.contracts import Candidate, ModelFiles, RecipeRecord, TrialRow
from leanloop.core.errors import LeanloopError, MemoryLimitError, StoreError, TimeLimitError, TrialError
from leanloop.core.files import write_json, write_text
from leanloop.core.hardware import hardware_id
from leanloop.core.names import code_version
from leanloop.core.settings import GoalSettings
from leanloop.optimize.apply import keep_checkpoint, make_files, make_prefix
from leanloop.optimize.objective import HOLDS_ACCURACY, HOLDS_GOLDEN, LOSES
from leanloop.optimize.plan import Job
from leanloop.optimize.recipe import Recipe, recipe_id
from leanloop.optimize.techniques import Workshop
from leanloop.runtime import answers_of, kept_original_outputs, open_session

CURRENT = "current.json"
"""In a child's folder: the recipe it is working on, so that a crash is laid at the right door."""

OUTPUTS = "validation.npz"
"""In a candidate's folder: its first output on validation."""

_MEASURE_SECONDS = 0.3

_THE_MACHINES_FAULT = (StoreError, OSError, MemoryError)
"""A full disk says nothing about a recipe: it is tried again in the next run."""


def finish_one(recipe: Recipe, job: Job, workshop: Workshop) -> TrialRow:
    """One candidate: made, measured, scored on validation and kept; or its failure."""
    store, identity, started = workshop.store, recipe_id(recipe, workshop.bundle.manifest.digest), time.monotonic()
    failure = failed_before(recipe, job, workshop)
    if failure is not None:
        return row(recipe, job, workshop, state="failed", reason=failure)
    with tempfile.TemporaryDirectory(prefix="leanloop-candidate-") as scratch:
        folder = Path(scratch) / identity
        cached = store.get_folder(f"candidates/{identity}", folder)
        try:
            with working_on(recipe, job):
                if not cached:
                    _make_candidate(recipe, identity, job, workshop, folder)
                candidate = Candidate.load(folder)
                latency = latency_of(candidate, folder, job, workshop)
        except Exception as error:  # noqa: BLE001 - whatever a converter raises is this recipe's result, and is shown
            reason = reason_of(error) if cached else fail(recipe, job, workshop, error)
            return row(recipe, job, workshop, state="failed", reason=reason)
        if not cached:
            store.put_folder(f"candidates/{identity}", folder)
        with np.load(folder / OUTPUTS, allow_pickle=False) as archive:
            reason, slack = accuracy_held(archive["output"], workshop, job.goal)
    return row(
        recipe,
        job,
        workshop,
        state="complete",
        latency_ms=latency,
        metric=candidate.metric,
        size_bytes=candidate.size_bytes,
        seconds=time.monotonic() - started,
        reason=reason,
        slack=slack,
    )


def latency_of(candidate: Candidate, folder: Path, job: Job, workshop: Workshop) -> float:
    """p50 in milliseconds of a candidate as the goal has it, on this machine: kept, or measured now.

    A candidate is the same whatever it is wanted for. Its latency is not: the store may hold it from a run at another
    batch size, with other threads, or on another machine.
    """
    key = _latency_key(candidate.id, job.goal)
    known = workshop.store.get_json(key)
    if known is None:
        known = {"latency_ms": measure(candidate.model, folder, job, workshop.bundle, _MEASURE_SECONDS)}
        workshop.store.put_json(key, known)
    return float(known["latency_ms"])


def _latency_key(identity: str, goal: GoalSettings) -> str:
    return f"timings/{identity}-{hardware_id()}-b{goal.batch_size}-t{goal.threads}.json"


def fail(recipe: Recipe, job: Job, workshop: Workshop, error: Exception) -> str:
    """Keep a recipe's failure, so that it is not tried again; returns the reason.

    One that ran into a limit is tried again where it is given more.
    """
    identity, reason = recipe_id(recipe, workshop.bundle.manifest.digest), reason_of(error)
    if isinstance(error, _THE_MACHINES_FAULT):
        return reason
    failure: dict[str, Any] = {"reason": reason, "recipe": recipe.record().model_dump()}
    if isinstance(error, (TimeLimitError, MemoryLimitError)):
        failure["limits"] = {"seconds": job.timeout_seconds, "bytes": job.memory_bytes}
    workshop.store.put_json(f"failures/{identity}.json", failure)
    return reason


def failed_before(recipe: Recipe, job: Job, workshop: Workshop) -> str | None:
    """Why a recipe failed in an earlier trial or run, under limits as these; None when it did not."""
    failure = workshop.store.get_json(f"failures/{recipe_id(recipe, workshop.bundle.manifest.digest)}.json")
    if failure is None:
        return None
    limits = failure.get("limits")
    if limits and (job.timeout_seconds > limits["seconds"] or job.memory_bytes > limits["bytes"]):
        return None
    return f"failed before: {failure['reason']}"


def _make_candidate(recipe: Recipe, identity: str, job: Job, workshop: Workshop, folder: Path) -> None:
    started, bundle = time.monotonic(), workshop.bundle
    model = make_files(recipe, workshop, folder)
    training_seconds = make_prefix(recipe.torch, workshop).training_seconds if recipe.torch else 0.0
    validation = bundle.split("validation")
    outputs = answers_of(model, folder, validation, threads=job.threads, outputs=bundle.manifest.outputs)
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise TrialError("The candidate answers NaN or infinity.")
    np.savez(folder / OUTPUTS, allow_pickle=False, output=outputs[bundle.manifest.outputs[0]])
    keep_checkpoint(recipe, workshop, folder)
    latency = measure(model, folder, job, bundle, _MEASURE_SECONDS)
    workshop.store.put_json(_latency_key(identity, job.goal), {"latency_ms": latency})
    Candidate(
        id=identity,
        recipe=recipe.record(),
        bundle_digest=bundle.manifest.digest,
        model=model,
        metric=bundle.score(outputs, validation, original_validation(workshop)),
        latency_ms=latency,
        size_bytes=model.size_bytes,
        seconds=time.monotonic() - started + training_seconds,
        training_seconds=training_seconds,
        trial=job.trial,
        code_version=code_version(),
        hardware_id=hardware_id(),
    ).save(folder)
    _write_replay(recipe, job, folder)


def accuracy_held(output: np.ndarray, workshop: Workshop, goal: GoalSettings) -> tuple[str, float]:
    """Whether a candidate's first output on validation keeps the metric that the goal asks for.

    The drop must be within the goal, and noise must not stand against it: the upper one-sided 95 % bound of the
    paired drop is within the goal too, or the candidate ties with the original. Of a revision this is asked of the
    golden samples in any case, as the gate does: recent ones, on which a student is hardly worse than its parent, do
    not make up for what it forgot.

    Returns:
        The reason of its row, and its `TrialRow.slack`.
    """
    bundle = workshop.bundle
    originals = original_validation(workshop)
    reference = originals[bundle.manifest.outputs[0]]
    targets = bundle.truth(bundle.split("validation"), lambda: originals)

    def slack_on(rows: np.ndarray) -> float:
        original = bundle.metric.score(reference[rows], targets[rows])
        margin = abs(bundle.metric.limit(original, goal.max_accuracy_drop) - original)
        return slack_within(bundle.metric, reference[rows], output[rows], targets[rows], margin)

    golden = ~bundle.fresh_rows("validation")
    slack = slack_on(np.ones_like(golden))
    if golden.all() or not golden.any():
        return (HOLDS_ACCURACY if slack >= 0 else LOSES), slack
    on_golden = slack_on(golden)
    if on_golden < 0:
        return LOSES, min(slack, on_golden)
    return (HOLDS_ACCURACY if slack >= 0 else HOLDS_GOLDEN), min(slack, on_golden)


def slack_within(
    metric: Metric, reference: np.ndarray, output: np.ndarray, targets: np.ndarray, margin: float
) -> float:
    """How much of a margin answers leave that may be worse than others on the same samples, noise counted.

    Args:
        metric: The owner's metric.
        reference: First output that is compared with, [samples, ...].
        output: First output that is judged, [samples, ...].
        targets: Labels; for ``agreement`` the original's outputs.
        margin: In the metric's units, as the slack.

    Returns:
        Negative where they are worse by more than the margin, or noise stands against it; 0 at least where they tie.
    """
    found = noninferiority(metric, reference, output, targets, margin=margin)
    slack = margin - found.upper_bound
    if found.drop > margin or found.holds:
        return slack
    ties = -noninferiority(metric, output, reference, targets, margin=margin).upper_bound <= 0
    return 0.0 if ties else slack


def original_validation(workshop: Workshop) -> Arrays:
    """The original's outputs on validation, from the store."""
    return kept_original_outputs(workshop.bundle, workshop.bundle.split("validation"), workshop.store)


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
        "function": "leanloop.optimize.candidate:replay",
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
        "# Makes this candidate again, from the bundle that call.json names: sh reproduce.sh\n"
        'cd "$(dirname "$0")" && exec python -m leanloop.core.child call.json\n',
    )


def measure(model: ModelFiles, folder: Path, job: Job, bundle: Bundle, seconds: float) -> float:
    """p50 in milliseconds of one batch as the goal has it."""
    session = open_session(model, folder, threads=job.goal.threads, bundle=bundle)
    try:
        return quick_latency(session, batch_of(bundle.samples, job.goal.batch_size), seconds=seconds)
    finally:
        session.close()


@contextmanager
def working_on(recipe: Recipe | None, job: Job) -> Iterator[None]:
    """Note the recipe in the child's folder while it is worked on; None stands for the work that recipes share."""
    path = Path(job.folder) / CURRENT
    write_json(path, None if recipe is None else recipe.record().model_dump(mode="json"))
    try:
        yield
    finally:
        path.unlink()


def row(
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
    slack: float | None = None,
) -> TrialRow:
    """A line of the search log."""
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
        slack=slack,
    )


def reason_of(error: BaseException) -> str:
    """One line for the search log."""
    if isinstance(error, LeanloopError):
        return f"{error.what} {error.value}" if error.value is not None else error.what
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
