"""Live samples mixed into the owner's data: what a revised bundle's splits hold.

A file of fresh samples is an ``.npz`` like the owner's could be: arrays ``<split>/<input>`` and ``<split>/target``. The
newest file is what the model must learn, the owner's data and older files are what it must not forget:

    train          all fresh, and twenty times as many old ones, at most 40,000: see `repeated`. Where these can be
                   made to look like fresh ones, as many look-alikes: see `leanloop.bundle.likeness`
    calibration    as many fresh as old
    validation     all fresh (*recent*), and as many of the owner's, 5,000 at least where there are (*golden*)
    test           the owner's alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from leanloop.bundle.data import Split, SplitName
from leanloop.bundle.likeness import Likeness

OLD_PER_FRESH = 2
"""In one pass of training."""

OTHERS_PER_FRESH = 6
"""Old ones and look-alikes in one pass: these teach what is new, too."""

MOST_REPEATS = 10
"""Of a fresh sample in one pass: more are learnt by heart."""

MOST_OLD = 40_000
"""More are not passed in the minutes that a repair has."""

LEAST_GOLDEN = 5_000
"""Fewer cannot tell a loss of a point from chance."""

_SEED = 0
"""Fixed, so that the golden samples stay the same from revision to revision."""


@dataclass(frozen=True)
class Mixed:
    """A revised bundle's split, in a fixed random order.

    Attributes:
        split: The samples; None when there are none.
        fresh: Which of them are live ones, booleans [samples].
        clean: The same, with every look-alike as the owner's sample that it was made from.
        alike: Which of them are look-alikes, booleans [samples].
    """

    split: Split | None
    fresh: np.ndarray
    clean: Split | None
    alike: np.ndarray


def mix(
    name: SplitName,
    owners: Split | None,
    fresh: Split | None,
    earlier: Sequence[Split] = (),
    likeness: Likeness | None = None,
) -> Mixed:
    """A revised bundle's split.

    Args:
        name: Which split.
        owners: The owner's samples.
        fresh: Of the newest file.
        earlier: Of older files, which training may not forget either.
        likeness: How the owner's samples become look-alikes of the fresh ones; None where they cannot.
    """
    if fresh is None or name == "test":
        none = np.zeros(0 if owners is None else len(owners), bool)
        return Mixed(owners, none, owners, none)
    if owners is None:
        return Mixed(fresh, np.ones(len(fresh), bool), fresh, np.zeros(len(fresh), bool))
    order, parts = np.random.default_rng(_SEED), [fresh]
    if name == "validation":
        parts += [owners.take(_some(len(owners), max(LEAST_GOLDEN, len(fresh)), order))]
    elif name == "calibration":
        count = min(len(owners), len(fresh))
        parts = [fresh.take(_some(len(fresh), count, order)), owners.take(_some(len(owners), count, order))]
    else:
        everything = _joined(name, [owners, *earlier])
        count = min(len(everything), MOST_REPEATS * OLD_PER_FRESH * len(fresh), MOST_OLD)
        parts += [everything.take(_some(len(everything), count, order))]
        if likeness:
            # Fewer win back less, and what is forgotten for them is half a point at most.
            parts += [owners.take(_some(len(owners), count, order))]
    joined, ends = _joined(name, parts), np.cumsum([len(part) for part in parts])
    rows = order.permutation(len(joined))
    clean, is_fresh, alike = joined.take(rows), rows < ends[0], np.zeros(len(rows), bool)
    if likeness is None or name != "train":
        return Mixed(clean, is_fresh, clean, alike)
    (key,), alike = clean.inputs, rows >= ends[1]
    values = clean.inputs[key].copy()
    values[alike] = likeness.apply(values[alike], _SEED)
    return Mixed(replace(clean, inputs={key: values}), is_fresh, clean, alike)


def repeated(fresh: np.ndarray, *, alike: bool) -> np.ndarray:
    """Rows of a train split for one pass: an old one once, a fresh one as often as makes a third of all fresh.

    Where look-alikes teach what is new, a seventh suffices, and more would only take steps from these.

    So the old ones are as many different ones as can be, which keeps more of what was learnt from them than a few that
    come again and again; and what is fresh is not drowned.

    Args:
        fresh: Which samples are, booleans [samples].
        alike: Whether there are look-alikes among the others.

    Returns:
        Indices in order, [at least as many as there are samples]; a fresh one comes ten times at most.
    """
    new = np.flatnonzero(fresh)
    others = OTHERS_PER_FRESH if alike else OLD_PER_FRESH
    times = round((len(fresh) - len(new)) / (others * max(1, len(new))))
    return np.sort(np.concatenate([np.flatnonzero(~fresh), np.tile(new, min(max(1, times), MOST_REPEATS))]))


def _some(count: int, wanted: int, order: np.random.Generator) -> np.ndarray:
    """Indices in order; the first ones of a permutation: a larger choice holds the smaller one."""
    return np.sort(order.permutation(count)[:wanted])


def _joined(name: str, parts: Sequence[Split]) -> Split:
    targets = [part.targets for part in parts]
    return Split(
        name,
        {key: np.concatenate([part.inputs[key] for part in parts]) for key in parts[0].inputs},
        None if any(target is None for target in targets) else np.concatenate(targets),  # type: ignore[arg-type]
    )
