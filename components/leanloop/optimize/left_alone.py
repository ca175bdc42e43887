"""What techniques leave as it is, and why: heard while they work, kept beside what they made, told at the end.

A technique says so by an event, ``left_alone``: with its ``technique``, with ``layers`` or the ``arguments`` of a
student, and with a ``reason``. Events are of one run; a later run, which takes the shape from the store, is told the
same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from leanloop.core.contracts import Candidates, LeftAlone, TrialRow
from leanloop.core.events import listening
from leanloop.core.store import Store
from leanloop.optimize.recipe import Recipe, prefix_id
from leanloop.optimize.techniques import Config

_EVENT = "left_alone"

_USUAL_REASON = "changed by themselves they would break the network"


@contextmanager
def hearing() -> Iterator[list[LeftAlone]]:
    """What techniques of this process leave alone while the block runs; complete when it ends."""
    found: list[LeftAlone] = []
    with listening(_EVENT) as events:
        yield found
    found += together(map(_heard, events))


@contextmanager
def kept_beside(configs: Sequence[Config], bundle_digest: str, store: Store) -> Iterator[None]:
    """Keep what the last of some techniques leaves alone in the store, where `told` finds it."""
    with hearing() as found:
        yield
    if found:
        store.put_json(_key(configs, bundle_digest), [one.model_dump(mode="json") for one in found])


def told(made: Candidates, heard: Iterable[LeftAlone], store: Store) -> Candidates:
    """A worker's candidates with what was left alone in any of its trials.

    Args:
        made: The worker's.
        heard: In the worker itself; trials run in processes of their own.
        store: Of the search.
    """
    found = [*heard, *_of_trials(made.trials, made.bundle_digest, store)]
    return made.model_copy(update={"left_alone": together(found)})


def together(found: Iterable[LeftAlone]) -> tuple[LeftAlone, ...]:
    """One entry per technique and reason."""
    parts: dict[tuple[str, str], dict[str, None]] = {}
    for one in found:
        parts.setdefault((one.technique, one.reason), {}).update(dict.fromkeys(one.parts))
    return tuple(LeftAlone(technique=name, reason=why, parts=tuple(some)) for (name, why), some in parts.items())


def _heard(event: dict[str, Any]) -> LeftAlone:
    parts = event.get("layers") or [event["arguments"]]
    return LeftAlone(technique=event["technique"], parts=parts, reason=event.get("reason") or _USUAL_REASON)


def _of_trials(rows: Sequence[TrialRow], bundle_digest: str, store: Store) -> Iterator[LeftAlone]:
    # What reshapes comes first in a recipe, so the beginnings of a trained one are those of the untrained one, too.
    recipes = [Recipe.from_record(row.recipe).torch for row in rows]
    for key in dict.fromkeys(_key(torch[:end], bundle_digest) for torch in recipes for end in range(1, len(torch) + 1)):
        yield from map(LeftAlone.model_validate, store.get_json(key) or ())


def _key(configs: Sequence[Config], bundle_digest: str) -> str:
    return f"left_alone/{prefix_id(configs, bundle_digest)}.json"
