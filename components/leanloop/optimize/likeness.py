"""Whether the owner's samples can stand in for fresh ones, once they are made to look like them."""

from __future__ import annotations

import numpy as np

from leanloop.bundle import Bundle, Likeness, Split, View, classes_of
from leanloop.bundle.likeness import LEAST_FRESH, MOST_NUMBERS, OLD_PER_NUMBER
from leanloop.core.events import emit
from leanloop.optimize.techniques.distillation import teacher_answers

_FITTED = 20_000
_ASKED = 2_000
_POINTS = 2.0
"""A loss of less is learnt from the fresh samples alone."""

_NEARER = 1 / 4
"""Of how differently the parent answers fresh samples and the owner's, beyond chance: with look-alikes it must be less.
"""

_SHUFFLES = 10


def find_likeness(parent: Bundle, fresh: Split, seed: int, *, threads: int = 1) -> Likeness | None:
    """How the owner's samples become look-alikes of fresh ones; None where they cannot, or need not.

    The parent is the judge. It must be worse on fresh samples than on the owner's in the same shares of classes, and
    mistake the look-alikes for the same classes as the fresh ones: how far apart its answers are is the total variation
    between the shares of its answers, class by class, and look-alikes must make it much less, chance apart.

    Args:
        parent: Classifies, with a metric that knows labels.
        fresh: Labelled samples to learn from.
        seed: Draws the owner's samples.
        threads: CPU threads.
    """
    owners = parent.owners_split("train")
    if owners is None or owners.targets is None or fresh.targets is None or not _fits(parent, owners, fresh):
        return None
    rows = _in_shares(owners.targets, fresh.targets, np.random.default_rng(seed))
    labels = owners.targets[rows[:_ASKED]]
    (key,) = fresh.inputs
    known, seen = owners.inputs[key][rows], fresh.inputs[key]
    asked = Split("train", {key: known[:_ASKED]}, labels)
    usual, owners_answers = _answered(parent, asked, threads)
    hard, answers = _answered(parent, fresh, threads)
    before = _apart(answers, fresh.targets, owners_answers, labels)
    tried = []
    for likeness in _likenesses(known, owners.targets[rows], seen, fresh.targets):
        found, its = _answered(parent, Split("train", {key: likeness.apply(known[:_ASKED], seed)}, labels), threads)
        tried.append((_apart(answers, fresh.targets, its, labels), found, likeness, its))
    after, found, likeness, likest = min(tried, key=lambda one: one[0])
    chance = _by_chance(answers, fresh.targets, likest, labels, np.random.default_rng(seed))
    costs = parent.metric.drop(usual, hard) >= _POINTS * parent.metric.point(usual)
    good = costs and after - chance < _NEARER * (before - chance)
    emit(
        "look_alikes",
        taken=good,
        view=None if likeness.view is None else [round(float(number), 3) for number in likeness.view.numbers],
        owners=usual,
        fresh=hard,
        look_alikes=found,
        before=before,
        after=after,
        by_chance=chance,
    )
    return likeness if good else None


def _likenesses(
    old: np.ndarray, old_classes: np.ndarray, fresh: np.ndarray, fresh_classes: np.ndarray
) -> list[Likeness]:
    """What may have happened: to the samples as they are, or to the camera, with and without noise."""
    found = [Likeness.fit(old, fresh)]
    if View.fits(old.shape[1:]) and not set(np.unique(fresh_classes)) - set(np.unique(old_classes)):
        view = View.fit(old, old_classes, fresh, fresh_classes)
        if view is not None:
            through = Likeness.fit(old, fresh, view)
            found += [through, through.clear()]
    return found


def _answered(parent: Bundle, split: Split, threads: int) -> tuple[float, np.ndarray]:
    """The parent's score on a split, and the classes that it answers, [samples]."""
    output = teacher_answers(parent, split, threads)
    return parent.score(output, split), classes_of(output[parent.manifest.outputs[0]])


def _apart(answers: np.ndarray, targets: np.ndarray, others: np.ndarray, their_targets: np.ndarray) -> float:
    """How differently two sets of samples are answered, 0 to 1.

    Args:
        answers: Classes that were answered, [n].
        targets: The right ones, [n].
        others: Classes that were answered to other samples, [m].
        their_targets: The right ones of these; every one of ``targets`` is among them, [m].
    """
    many, total = 1 + int(max(answers.max(), others.max())), 0.0
    for label in np.unique(targets):
        mine, its = answers[targets == label], others[their_targets == label]
        shares = [np.bincount(one, minlength=many) / max(1, len(one)) for one in (mine, its)]
        total += len(mine) * np.abs(shares[0] - shares[1]).sum() / 2
    return float(total / len(answers))


def _by_chance(
    answers: np.ndarray,
    targets: np.ndarray,
    others: np.ndarray,
    their_targets: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """`_apart` of two such sets that were drawn from one: the answers of each class, shuffled between them."""
    labels, values = np.concatenate([targets, their_targets]), np.concatenate([answers, others])
    found = []
    for _ in range(_SHUFFLES):
        shuffled = values.copy()
        for label in np.unique(labels):
            shuffled[labels == label] = rng.permutation(values[labels == label])
        found.append(_apart(shuffled[: len(targets)], targets, shuffled[len(targets) :], their_targets))
    return float(np.mean(found))


def _fits(parent: Bundle, owners: Split, fresh: Split) -> bool:
    """Whether samples are few enough numbers, and there are enough of them to tell their variances."""
    values = list(fresh.inputs.values())
    numbers = int(np.prod(values[0].shape[1:]))
    return (
        parent.manifest.task == "classification"
        and len(values) == 1
        and values[0].dtype.kind == "f"
        and numbers <= MOST_NUMBERS
        and len(owners) >= OLD_PER_NUMBER * numbers
        and len(fresh) >= LEAST_FRESH
    )


def _in_shares(targets: np.ndarray, like: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of some targets, drawn so that their classes have the shares that they have in others."""
    classes, members = np.unique(targets, return_inverse=True)
    wanted = np.array([np.mean(like == one) for one in classes])
    weights = (wanted / np.bincount(members))[members]
    return rng.choice(len(targets), min(_FITTED, len(targets)), p=weights / weights.sum())
