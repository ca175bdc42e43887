"""What latency-first staging saves: fine-tuning minutes until an equally good candidate, beside a plain search.

Both search the very same space of an example. Ours times untrained shapes first, trains briefly, then whole. The plain
one is what Optuna does by itself: its TPE sampler draws shape, strength, effort and files, each draw is trained in full
and measured, and accuracy is a constraint. What is trained once is kept for both. Counted is the training, short ones
included, until the first candidate that holds the accuracy and is within `EQUAL` of our search's best, timed in turns
with it. A plain search that has spent `GIVEN_UP` times as much, or `MOST_MINUTES`, ends there, as one does that draws
nothing new any more: its figure is then a lower bound.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from figures import Figure, Line, Remark
from optuna.trial import TrialState
from peak import GIB

from leanloop.bundle import Bundle
from leanloop.core.contracts import Analysis, Candidate, TrialRow
from leanloop.core.files import read_json
from leanloop.core.hardware import usable_cores
from leanloop.core.settings import Settings, load_settings
from leanloop.core.store import Store
from leanloop.core.workspace import with_absolute_paths
from leanloop.optimize import Recipe, holds, search_worker
from leanloop.optimize.candidate import finish_one, latency_of
from leanloop.optimize.objective import objective
from leanloop.optimize.plan import Job
from leanloop.optimize.recipe import prefix_id
from leanloop.optimize.space import EFFORTS, Space, make_space
from leanloop.optimize.study import store_url
from leanloop.optimize.techniques import Config, Workshop
from leanloop.optimize.trial import beside
from leanloop.steps import analyze as analyze_step
from leanloop.steps import bundle as bundle_step

ROOT = Path(__file__).parents[1]
EXAMPLES = {"digits": "examples/digits/params.yaml", "MLP": "examples/fashion_mnist/params-mlp.yaml"}
SEEDS = (0, 1, 2)
BUDGET_MINUTES = 2.0
"""Of our search. The digits example's own is so short that it holds one training."""

EQUAL = 1.05
"""Times slower than our best that counts as equally good."""

GIVEN_UP, LEAST_SECONDS = 6.0, 30.0
MOST_MINUTES = 6.0
MOST_TRIALS = 200
REDRAWN = 200
"""Known points in a row: the sampler has nothing new to say."""

_OURS = "ours"
_LOST = 1e6
"""Percent: the plain search did better, or as well without any training."""


def measure(folder: Path, example: str, seed: int) -> dict[str, Any]:
    """Fine-tuning seconds of both searches, and how many candidates they trained in full.

    Args:
        folder: For workspaces and results.
        example: Of `EXAMPLES`.
        seed: Of both.
    """
    params = ROOT / EXAMPLES[example]
    settings = with_absolute_paths(
        load_settings(
            params,
            {
                "workspace": str(folder / "ours"),
                "optimize.workers": 1,
                "optimize.seed": seed,
                "optimize.budget_minutes": BUDGET_MINUTES,
                "optimize.max_trials": MOST_TRIALS,
            },
        ),
        params.parent,
    )
    bundle_step.run(settings, project=params.parent, bundle=folder / "bundle")
    analyze_step.run(settings, bundle=folder / "bundle", analysis=folder / "analysis")
    bundle = Bundle(folder / "bundle")
    analysis = Analysis.load(folder / "analysis")
    space = make_space(bundle, settings, analysis)
    rows = search_worker(bundle, analysis, settings, folder / "candidates", 0).trials
    best = min((row for row in rows if holds(row)), key=lambda row: objective(row, settings.goal), default=None)
    if best is None:
        return {"best": None, "reason": f"seed {seed}: the search found nothing that holds the accuracy"}
    ours, trained = spent_until(rows, best, settings)
    most = max(GIVEN_UP * ours, LEAST_SECONDS)
    plain = plain_search(bundle, space, settings, folder, best, seed, most_seconds=most)
    return {"ours_seconds": ours, "ours_trained": trained, "best": best.model_dump(mode="json"), **plain}


def spent_until(rows: Sequence[TrialRow], best: TrialRow, settings: Settings) -> tuple[float, int]:
    """Seconds of all trainings, short ones included, up to the first candidate as good as the best one; how many.

    The store tells what was trained by when: this search alone has written to it.
    """
    store, most = Path(store_url(settings)), EQUAL * objective(best, settings.goal)
    good = [row for row in rows if holds(row) and objective(row, settings.goal) <= most]
    found = min((store / "candidates" / row.candidate_id / Candidate.filename).stat().st_mtime for row in good)
    costs = [path for path in (store / "prefixes").glob("*/cost.json") if path.stat().st_mtime <= found]
    seconds = [read_json(path)["training_seconds"] for path in costs]
    return sum(seconds), sum(one > 0 for one in seconds)


def training_seconds(store: Store, configs: Sequence[Config], bundle: Bundle) -> float:
    """What a training cost when it was made; 0 where it was not."""
    with tempfile.TemporaryDirectory(prefix="leanloop-economy-") as scratch:
        folder = Path(scratch) / "prefix"
        if not configs or not store.get_folder(f"prefixes/{prefix_id(configs, bundle.manifest.digest)}", folder):
            return 0.0
        return float(read_json(folder / "cost.json")["training_seconds"])


def plain_search(
    bundle: Bundle, space: Space, settings: Settings, folder: Path, best: TrialRow, seed: int, most_seconds: float
) -> dict[str, Any]:
    """Optuna alone, until it has an equally good candidate."""
    job = Job(
        bundle=str(bundle.folder),
        store=str(folder / "plain"),
        goal=settings.goal,
        threads=usable_cores(),
        trial=-1,
        folder=str(folder / "plain-process"),
    )
    workshop = job.workshop()
    goal_ms = _bring(best, Store(store_url(settings)), job, workshop)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    seconds, paid, known, again = 0.0, set[str](), dict[str, tuple[float | None, float]](), 0
    deadline = time.monotonic() + 60 * MOST_MINUTES

    def ended(how: str) -> dict[str, Any]:
        return {"plain_seconds": seconds, "plain_trained": len(paid), "plain_drawn": len(known), "plain_ended": how}

    while again < REDRAWN:
        if seconds >= most_seconds or time.monotonic() >= deadline:
            return ended("given up")
        trial = study.ask()
        recipe = drawn(trial, space)
        point = recipe.record().model_dump_json()
        again = again + 1 if point in known else 0
        if not again:
            row = finish_one(recipe, job, workshop)
            identity = prefix_id(recipe.torch, bundle.manifest.digest)
            if identity not in paid:
                paid.add(identity)
                seconds += training_seconds(workshop.store, recipe.torch, bundle)
            complete = row.state == "complete"
            if complete and holds(row) and (found_ms := _in_turns(row, job, workshop)) <= EQUAL * goal_ms:
                return {**ended("found"), "plain_faster": goal_ms / found_ms}
            known[point] = objective(row, settings.goal) if complete else None, 0.0 if holds(row) else 1.0
        value, broken = known[point]
        if value is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_constraint("accuracy", broken)
            study.tell(trial, value)
    return ended("nothing new is drawn")


def drawn(trial: optuna.Trial, space: Space) -> Recipe:
    """A point of the space, as a plain sampler draws it."""
    shape = trial.suggest_categorical("shape", list(space.shapes))
    strength = trial.suggest_int(f"strength of {shape}", 0, len(space.shapes[shape]))
    effort = trial.suggest_categorical("effort", list(EFFORTS))
    files = list(_files(space))
    finish, place = files[trial.suggest_categorical("files", list(range(len(files))))]
    return space.recipes(space.torch(shape, strength, effort), space.finishes[finish])[place]


def _files(space: Space) -> Iterator[tuple[int, int]]:
    for number, finish in enumerate(space.finishes):
        for place in range(len(finish.configs)):
            yield number, place


def _bring(best: TrialRow, source: Store, job: Job, workshop: Workshop) -> float:
    """Our best candidate's files into the plain search's store, under a name that it never asks for."""
    with tempfile.TemporaryDirectory(prefix="leanloop-economy-") as scratch:
        folder = Path(scratch) / "candidate"
        source.get_folder(f"candidates/{best.candidate_id}", folder)
        # Under an id of its own, or the same recipe, made again, would move the yardstick.
        ours = Candidate.load(folder).model_copy(update={"id": _OURS})
        ours.save(folder)
        workshop.store.put_folder(f"candidates/{_OURS}", folder)
        return latency_of(ours, folder, job, workshop)


def _in_turns(row: TrialRow, job: Job, workshop: Workshop) -> float:
    with tempfile.TemporaryDirectory(prefix="leanloop-economy-") as scratch:
        folder = Path(scratch) / "candidate"
        workshop.store.get_folder(f"candidates/{row.candidate_id}", folder)
        return beside(_OURS, Candidate.load(folder).model, folder, job, workshop)


def share(found: Mapping[str, Any]) -> float:
    """Our seconds in percent of the plain search's, of one seed.

    A search of ours without a result, or whose best is slower than the plain one's find by more than `EQUAL`, lost.
    Where neither trained at all, staging saved nothing: 100.
    """
    if not found.get("best") or found.get("plain_faster", 0.0) > EQUAL:
        return _LOST
    ours, plain = found["ours_seconds"], found["plain_seconds"]
    if plain > 0:
        return float(100 * ours / plain)
    return 100.0 if ours == 0 else _LOST


def judge(example: str, found: Sequence[dict[str, Any]]) -> list[Line]:
    """An example's figures over its seeds; a search of ours without a result is the worst there can be."""
    done = [one for one in found if one.get("best")]
    shares = [share(one) for one in found]
    name = f"{example}: fine-tuning of our search, of a plain one's (median)"
    lines: list[Line] = [Figure(name, statistics.median(shares), "%", at_most=100 / 3)]
    if done:
        ours, plain = (statistics.median(one[key] for one in done) for key in ("ours_seconds", "plain_seconds"))
        ended = sum(one["plain_ended"] != "found" for one in done)
        faster = [one["plain_faster"] for one in done if "plain_faster" in one]
        lines += [
            Figure("  ours", ours, "s"),
            Figure("  the plain search's", plain, "s"),
            Figure("  seeds that ours lost", sum(one >= _LOST for one in shares), f"of {len(found)}"),
            Figure("  seeds where the plain one was given up", ended, f"of {len(done)}"),
            Figure(
                "  seeds where ours trained nothing", sum(not one["ours_trained"] for one in done), f"of {len(done)}"
            ),
            Figure("  the plain one's find faster than our best, at most", max(faster, default=0.0), "x"),
        ]
    if len(done) < len(found):
        failed = len(found) - len(done)
        lines.append(Figure(f"{example}: seeds where our search found nothing", failed, f"of {len(found)}", at_most=0))
        lines += [Remark(f"  {one['reason']}") for one in found if not one.get("best")]
    memory = max(one["peak_memory_bytes"] for one in found) / GIB
    return [*lines, Figure(f"{example}: peak memory of the searches", memory, "GiB", at_most=3)]
