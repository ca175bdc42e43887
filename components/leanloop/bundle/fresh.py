"""Live samples mixed into the owner's data: what a revised bundle's splits hold.

A file of fresh samples is an ``.npz`` like the owner's could be: arrays ``<split>/<input>`` and ``<split>/target``. The
newest file is what the model must learn, the owner's data and older files are what it must not forget:

    train          all fresh, and twenty times as many old ones, at most 40,000: see `repeated`
    calibration    as many fresh as old
    validation     all fresh (*recent*), and as many of the owner's, 5,000 at least where there are (*golden*)
    test           the owner's alone
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leanloop.bundle.data import Split, SplitName

OLD_PER_FRESH = 4
MOST_OLD = 40_000
MOST_REPEATS = 5
LEAST_GOLDEN = 5_000

_SEED = 0
"""Fixed, so that the golden samples stay the same from revision to revision."""


def mix(
    name: SplitName, owners: Split | None, fresh: Split | None, earlier: Sequence[Split] = ()
) -> tuple[Split | None, np.ndarray]:
    """A revised bundle's split.

    Args:
        name: Which split.
        owners: The owner's samples.
        fresh: Of the newest file.
        earlier: Of older files, which training may not forget either.

    Returns:
        The samples in a fixed random order, and which of them are fresh, booleans [samples].
    """
    if fresh is None or name == "test":
        return owners, np.zeros(0 if owners is None else len(owners), bool)
    if owners is None:
        return fresh, np.ones(len(fresh), bool)
    order = np.random.default_rng(_SEED)
    if name == "validation":
        old = _some(owners, max(LEAST_GOLDEN, len(fresh)), order)
    elif name == "calibration":
        count = min(len(owners), len(fresh))
        old, fresh = _some(owners, count, order), _some(fresh, count, order)
    else:
        count = min(MOST_OLD, MOST_REPEATS * OLD_PER_FRESH * len(fresh))
        old = _some(_joined(name, [owners, *earlier]), count, order)
    rows = order.permutation(len(old) + len(fresh))
    return _joined(name, [old, fresh]).take(rows), rows >= len(old)


def repeated(fresh: np.ndarray) -> np.ndarray:
    """Rows of a train split for one pass: an old one once, a fresh one as often as makes a fifth of all fresh.

    So the old ones are as many different ones as can be, which keeps more of what was learnt from them than a few that
    come again and again; and what is fresh is not drowned.

    Args:
        fresh: Which samples are, booleans [samples].

    Returns:
        Indices in order, [at least as many as there are samples]; a fresh one comes five times at most.
    """
    new = np.flatnonzero(fresh)
    times = round((len(fresh) - len(new)) / (OLD_PER_FRESH * max(1, len(new))))
    return np.sort(np.concatenate([np.flatnonzero(~fresh), np.tile(new, min(max(1, times), MOST_REPEATS))]))


def _some(split: Split, count: int, order: np.random.Generator) -> Split:
    # The first ones of a permutation: a larger choice holds the smaller one.
    return split.take(np.sort(order.permutation(len(split))[:count]))


def _joined(name: str, parts: Sequence[Split]) -> Split:
    targets = [part.targets for part in parts]
    return Split(
        name,
        {key: np.concatenate([part.inputs[key] for part in parts]) for key in parts[0].inputs},
        None if any(target is None for target in targets) else np.concatenate(targets),  # type: ignore[arg-type]
    )
