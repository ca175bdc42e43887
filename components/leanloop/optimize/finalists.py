"""From all workers' candidates to the few that are converted and benchmarked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leanloop.core.contracts import Candidate, Candidates, TrialRow
from leanloop.core.settings import Settings
from leanloop.optimize.objective import holds, holds_golden, objective, within_limits
from leanloop.optimize.recipe import Recipe


@dataclass(frozen=True)
class Finalist:
    """A candidate that goes on.

    Attributes:
        candidate: What the search found.
        folder: Where its files lie.
    """

    candidate: Candidate
    folder: Path


def finalists(folders: Sequence[Path], settings: Settings) -> list[Finalist]:
    """Choose among the candidates of all search workers, best first.

    First those that hold the accuracy within the goal's limits, by objective; then, of a revision, those that do so on
    the golden samples; then the rest of the Pareto front over objective, metric and size. Beside these, the best
    post-training candidate of each target is always taken, so that the report can say what retraining bought. Plain
    conversions are left out.

    Args:
        folders: Of the workers; each holds ``candidates.json``.
        settings: Goal, and ``optimize.finalists``: how many.
    """
    found: dict[str, tuple[Finalist, TrialRow]] = {}
    for folder in folders:
        worker = Candidates.load(folder)
        rows = {row.candidate_id: row for row in worker.trials if row.state == "complete"}
        for identity in worker.candidates:
            candidate = Candidate.load(folder / identity)
            # A plain conversion is a baseline of the benchmark already, and would take the place of a candidate.
            if candidate.recipe.techniques:
                found.setdefault(identity, (Finalist(candidate, folder / identity), rows[identity]))
    ranked = sorted(found.values(), key=lambda pair: _rank(pair, list(found.values()), settings))
    chosen = [finalist for finalist, _ in ranked[: settings.optimize.finalists]]
    for target in settings.targets:
        post_training = [finalist for finalist, _ in ranked if _is_post_training(finalist.candidate, target)]
        if post_training and post_training[0] not in chosen:
            chosen.append(post_training[0])
    return chosen


def all_rows(workers: Sequence[Candidates]) -> tuple[TrialRow, ...]:
    """The trials' log lines of all workers.

    What two brought is listed once: a worker that took long to start again was taken for dead, and another brought what
    it had finished, too.
    """
    found: list[TrialRow] = []
    known: set[tuple[int, str]] = set()
    for worker in workers:
        found += [row for row in worker.trials if (row.trial, row.candidate_id) not in known]
        known |= {(row.trial, row.candidate_id) for row in worker.trials}
    return tuple(found)


def _rank(
    pair: tuple[Finalist, TrialRow], all_pairs: Sequence[tuple[Finalist, TrialRow]], settings: Settings
) -> tuple[int, bool, float]:
    # By the rows: a candidate's own latency may be of another goal, from an earlier run.
    row = pair[1]
    good = (holds(row) + holds_golden(row)) if within_limits(row, settings.goal) else 0
    dominated = any(_dominates(other, row, settings) for _, other in all_pairs)
    return -good, dominated, objective(row, settings.goal)


def _dominates(one: TrialRow, other: TrialRow, settings: Settings) -> bool:
    mine, theirs = ((objective(row, settings.goal), _worse(row, settings), row.size_bytes or 0) for row in (one, other))
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _worse(row: TrialRow, settings: Settings) -> float:
    assert row.metric is not None, "it is complete"
    return row.metric if settings.metric == "rmse" else -row.metric


def _is_post_training(candidate: Candidate, target: str) -> bool:
    return candidate.recipe.target == target and not Recipe.from_record(candidate.recipe).torch
