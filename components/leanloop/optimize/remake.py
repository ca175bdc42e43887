"""The champion's recipe made again on a revised bundle: much cheaper than a search, and it mostly suffices.

First the recipe itself: what serves goes on learning from its own weights, where the revised bundle carries them
(`leanloop.optimize.techniques.resume`); else its fine-tuning is scaled to as many steps as it had. Then other ways to
make the files from the same PyTorch module, where these are faster. Both are trials like those of a search, with their
rungs, and the store keeps what they find. Only when none does, or something faster is asked for, a search follows.

What does: it is hardly slower than what serves, loses no more on golden samples than its gate lets pass, and the
accuracy that the goal asks for holds on golden and recent samples together. Recent samples may be so
hard that no small model comes so near to its parent on them; then it must hold on the golden ones, and on the recent
ones be really better than what serves.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from leanloop.benchmark import noninferiority
from leanloop.bundle import Bundle
from leanloop.core.child import Child
from leanloop.core.contracts import Aim, Analysis, BundleManifest, Candidates, RecipeRecord, TrialRow
from leanloop.core.errors import LeanloopError
from leanloop.core.events import emit, progress
from leanloop.core.hardware import usable_cores
from leanloop.core.loop_contracts import MAY_BE_SLOWER
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.optimize.candidate import OUTPUTS, slack_within
from leanloop.optimize.objective import holds, holds_golden, objective, within_limits
from leanloop.optimize.plan import Job, Plan
from leanloop.optimize.recipe import Recipe
from leanloop.optimize.search import failed_row, made_alike, run_plan, search_worker, write_candidates
from leanloop.optimize.space import Finish, make_space
from leanloop.optimize.study import store_url
from leanloop.optimize.techniques.blending import BlendingConfig
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.optimize.techniques.resume import ResumeConfig
from leanloop.optimize.techniques.resume import why_not as why_no_student
from leanloop.runtime import kept_original_outputs

_RESUMED_STEPS = 1_200
"""Of a student that goes on learning: it has little to mend."""

_GENTLE = {"sgd": 0.05, "adamw": 5e-4}
"""Its learning rate, at most: the weights are good already. Blended afterwards, a resumed student of the Fashion-MNIST
CNN forgets half as much with 0.05 as with 0.02, for the same gain."""

_LESS = (0.7, 0.55, 0.4)
"""Most of what was learnt that further blends may hold, one after another."""

_GIVEN_UP = 0.9
"""Only a short training that loses this share of the metric says that the recipe cannot work any more."""


def remake(
    bundle: Bundle,
    analysis: Analysis,
    champion: RecipeRecord | None,
    parent: BundleManifest,
    settings: Settings,
    destination: Path,
    *,
    aim: Aim,
    serving: np.ndarray,
) -> Candidates:
    """Make the champion's recipe again, or search when that does not do; writes the candidates of worker 0.

    Args:
        bundle: The revised one.
        analysis: Of the revised bundle.
        champion: Recipe of the artifact that serves; None when that is the original.
        parent: Manifest of the bundle that the champion was made from.
        settings: Goal and targets; ``optimize.budget_minutes`` counts for the recipe, and again for the search.
        destination: Folder to write ``candidates.json`` and one folder per candidate into.
        aim: ``latency`` always searches, since the same recipe is as slow as before.
        serving: First output of what serves on the revised validation split, [samples, ...].
    """
    space, rows, store = make_space(bundle, settings, analysis), [], Store(store_url(settings))

    def does(found: Sequence[TrialRow]) -> bool:
        fitting = [row for row in as_quick(found, champion) if within_limits(row, settings.goal)]
        return any(_does(row, serving, bundle, store) for row in fitting)

    if champion is not None:
        before = Recipe.from_record(champion)
        recipe = _resumed(before, bundle, aim) or _as_long(before, parent, bundle.manifest)
        rows = _remade(recipe, space.finishes, bundle, analysis, settings, destination / "trials", does)
        if aim != "latency" and does(rows):
            return write_candidates(bundle, store, rows, space.left_out, destination, 0)
    emit("searching", reason="the recipe of what serves does not do" if rows else "what serves has no recipe")
    found = search_worker(bundle, analysis, settings, destination, 0)
    return write_candidates(bundle, store, [*rows, *found.trials], space.left_out, destination, 0)


def as_quick(rows: Sequence[TrialRow], champion: RecipeRecord | None) -> list[TrialRow]:
    """The candidates that are hardly slower than what serves, by the latency of files that were made as its are.

    Files of another kind may keep the accuracy where these lose a little, and be refused later for their time.
    """
    if champion is None:
        return []
    before, made = Recipe.from_record(champion), [row for row in rows if row.state == "complete"]
    serving = [row.latency_ms for row in made if made_alike(before, row) and row.latency_ms is not None]
    if not serving:
        return []
    slowest = MAY_BE_SLOWER * min(serving)
    return [row for row in made if row.latency_ms is not None and row.latency_ms <= slowest]


def _does(row: TrialRow, serving: np.ndarray, bundle: Bundle, store: Store) -> bool:
    """Whether a candidate keeps the accuracy, beside the parent and beside what serves: the gate asks for both."""
    if not holds_golden(row):
        return False
    outputs = _outputs(row, store)
    if not _keeps_golden(outputs, serving, bundle, store):
        return False
    return holds(row) or _better_on_recent(outputs, serving, bundle, store)


def _outputs(row: TrialRow, store: Store) -> np.ndarray:
    """First output of a candidate on the validation split, [samples, ...]."""
    with tempfile.TemporaryDirectory(prefix="leanloop-remade-") as scratch:
        store.get_folder(f"candidates/{row.candidate_id}", Path(scratch) / "candidate")
        with np.load(Path(scratch) / "candidate" / OUTPUTS, allow_pickle=False) as archive:
            output: np.ndarray = archive["output"]
    return output


def _keeps_golden(outputs: np.ndarray, serving: np.ndarray, bundle: Bundle, store: Store) -> bool:
    """As `leanloop.select.challenge` judges: a point at most is lost, and surely so, or no loss can be told at all."""
    golden = ~bundle.fresh_rows("validation")
    if not golden.any():
        return True
    metric, before, truth = bundle.metric, serving[golden], _truth(bundle, store)[golden]
    return slack_within(metric, before, outputs[golden], truth, metric.point(metric.score(before, truth))) >= 0


def _better_on_recent(outputs: np.ndarray, serving: np.ndarray, bundle: Bundle, store: Store) -> bool:
    recent = bundle.fresh_rows("validation")
    truth = _truth(bundle, store)[recent]
    return noninferiority(bundle.metric, serving[recent], outputs[recent], truth, margin=0.0).upper_bound < 0


def _truth(bundle: Bundle, store: Store) -> np.ndarray:
    validation = bundle.split("validation")
    return bundle.truth(validation, lambda: kept_original_outputs(bundle, validation, store))


def _remade(
    recipe: Recipe,
    finishes: Sequence[Finish],
    bundle: Bundle,
    analysis: Analysis,
    settings: Settings,
    folder: Path,
    does: Callable[[Sequence[TrialRow]], bool],
) -> list[TrialRow]:
    deadline = time.time() + 60 * settings.optimize.budget_minutes
    resumes = any(isinstance(config, ResumeConfig) for config in recipe.torch)

    def rows_of(number: int, groups: Sequence[Sequence[Recipe]], best: float | None) -> list[TrialRow]:
        plan = Plan(
            groups=tuple(tuple(one.record() for one in group) for group in groups),
            best=best,
            short_floor=None if resumes else bundle.metric.limit(analysis.metric, _GIVEN_UP),
            deadline=deadline,
        )
        job = Job(
            bundle=str(bundle.folder),
            store=store_url(settings),
            goal=settings.goal,
            threads=usable_cores(),
            trial=number,
            folder=str((folder / f"remade-{number}").resolve()),
            timeout_seconds=settings.optimize.trial_timeout_seconds,
            memory_bytes=settings.optimize.trial_memory_bytes,
        )
        started = time.monotonic()
        try:
            return list(run_plan(child, job, plan).rows)
        except LeanloopError as error:
            return [failed_row(groups[0][0], bundle, number, time.monotonic() - started, error)]

    with Child() as child:
        progress(0, 2, "making the champion's recipe again")
        rows = rows_of(0, [_likes(recipe, finishes)], None)
        for number, milder in enumerate(_milder(recipe), start=2):
            if does(rows):
                break
            emit("blended_less", techniques=milder.record().techniques)
            rows += rows_of(number, [_likes(milder, finishes)], None)
        made = sorted((row for row in rows if row.state == "complete"), key=lambda row: -holds(row) - holds_golden(row))
        if made:
            progress(1, 2, "trying other files of the same module")
            # Its training may have been cut to the time that was left.
            siblings = _siblings(Recipe.from_record(made[0].recipe), finishes)
            best = objective(made[0], settings.goal) if holds(made[0]) else None
            rows += rows_of(1, siblings, best) if siblings else []
    progress(2, 2, "making the champion's recipe again")
    return rows


def _milder(recipe: Recipe) -> list[Recipe]:
    """The recipe with less of what was learnt, where it blends: what follows may cost what the blend left to lose."""
    if not (recipe.torch and isinstance(recipe.torch[-1], BlendingConfig)):
        return []
    *first, _ = recipe.torch
    files = () if recipe.graph is None else (recipe.graph,)
    return [Recipe(recipe.target, (*first, BlendingConfig(most=most), *files)) for most in _LESS]


def _likes(recipe: Recipe, finishes: Sequence[Finish]) -> list[Recipe]:
    """The recipe, then the same technique with its other settings."""
    same = [finish for finish in finishes if _makes_files_of(recipe, finish)]
    return [recipe, *(one for finish in same for one in _after(recipe, finish) if one != recipe)]


def _siblings(recipe: Recipe, finishes: Sequence[Finish]) -> list[list[Recipe]]:
    """Every other way to make files of the same module; of the original a plain conversion is a baseline already."""
    groups = [_after(recipe, finish) for finish in finishes if not _makes_files_of(recipe, finish)]
    return [group for group in groups if group[0].configs]


def _makes_files_of(recipe: Recipe, finish: Finish) -> bool:
    first = finish.configs[0]
    mine, its = (None if config is None else config.technique for config in (recipe.graph, first))
    return finish.target == recipe.target and mine == its


def _after(recipe: Recipe, finish: Finish) -> list[Recipe]:
    configs = [recipe.torch if config is None else (*recipe.torch, config) for config in finish.configs]
    return [Recipe(finish.target, some) for some in configs]


def _resumed(recipe: Recipe, bundle: Bundle, aim: Aim) -> Recipe | None:
    """The recipe with the student's own weights at its beginning; None where there is no student, or no training.

    Where labels teach something new, it remembers what it knew; where it departs from its parent, that is to be mended.
    """
    training = [config for config in recipe.torch if isinstance(config, DistillationConfig)]
    if not training or why_no_student(bundle):
        return None
    passed = _RESUMED_STEPS * training[0].batch_size
    epochs = math.ceil(passed / len(bundle.training_rows()))
    gentle = replace(
        training[0],
        epochs=epochs,
        samples=math.ceil(passed / epochs),
        learning_rate=min(training[0].learning_rate, _GENTLE[training[0].optimizer]),
        remembers=aim == "accuracy",
    )
    return Recipe(recipe.target, (ResumeConfig(), gentle, BlendingConfig(), *filter(None, [recipe.graph])))


def _as_long(recipe: Recipe, parent: BundleManifest, revised: BundleManifest) -> Recipe:
    """The recipe with as many training steps as it had: epochs of a smaller split are shorter."""
    if not recipe.trains:
        return recipe
    samples = [manifest.splits["train"].samples for manifest in (parent, revised)]
    return recipe.scaled(samples[0] / samples[1]) or recipe
