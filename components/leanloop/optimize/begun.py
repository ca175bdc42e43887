"""Telling that a search does not go on where the last one of a bundle was, and why.

A study's name holds a digest of all that makes results comparable. Another goal, machine or code opens another study
without a word, as it should; the owner, who may have expected the old one to go on, is told what differs. The store
keeps a digest of every part for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from leanloop.core.events import emit
from leanloop.core.files import digest_json
from leanloop.core.hardware import fingerprint, tool_versions
from leanloop.core.names import code_version
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.optimize.space import Space

_NAMES = {
    "training": "training",
    "training_anew": "training of fresh weights",
    "finishes": "ways to make files",
    "limits": "limits of a trial",
    "tools": "versions of the tools",
    "code_version": "leanloop's code",
}
"""How a part is called where its key does not say it."""


def note_study(study: str, space: Space, settings: Settings, bundle_digest: str, store: Store) -> None:
    """Note a study beside the bundle's earlier ones, and say by ``study_begun_anew`` when it is a new one beside them.

    For one worker of a search: told by all, it would be told several times.

    Args:
        study: Its name.
        space: What may be tried.
        settings: The run's.
        bundle_digest: Of the bundle.
        store: Of the search.
    """
    key = f"studies/of/{bundle_digest}.json"
    known: dict[str, dict[str, str]] = store.get_json(key) or {}
    now = parts(space, settings)
    if known and study not in known:
        before = list(known.values())[-1]
        names = [_named(part) for part in dict.fromkeys([*now, *before]) if now.get(part) != before.get(part)]
        emit("study_begun_anew", study=study, reason=_reason(names))
    # The one that was opened last is the one to compare with.
    store.put_json(key, {**{name: digests for name, digests in known.items() if name != study}, study: now})


def parts(space: Space, settings: Settings) -> dict[str, str]:
    """A digest of every part that a study's name covers."""
    of_space = {one.name: getattr(space, one.name) for one in fields(space) if one.name != "left_out"}
    found = {
        **of_space,
        "goal": settings.goal.model_dump(mode="json"),
        "seed": settings.optimize.seed,
        "limits": [settings.optimize.trial_timeout_seconds, settings.optimize.trial_memory_bytes],
        "hardware": {name: value for name, value in fingerprint().items() if name != "tools"},
        "tools": tool_versions(),
        "code_version": code_version(),
    }
    return {name: digest_json(_plain(part)) for name, part in found.items()}


def _plain(part: Any) -> Any:
    if hasattr(part, "document"):
        return part.document()
    if isinstance(part, Mapping):
        return {name: _plain(value) for name, value in part.items()}
    if isinstance(part, tuple | list):
        return [_plain(one) for one in part]
    if is_dataclass(part):
        return [_plain(getattr(part, one.name)) for one in fields(part)]
    return part


def _named(part: str) -> str:
    return _NAMES.get(part, part.replace("_", " "))


def _reason(names: list[str]) -> str:
    return (
        "The search begins anew instead of going on where this bundle's last one was. What differs: "
        f"{', '.join(names) or 'something else that decides results'}. Results that the store keeps are used again "
        "where they still hold."
    )
