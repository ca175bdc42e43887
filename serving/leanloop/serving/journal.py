"""The journal of rollouts: what was meant to be done is on the disk before it is done, so that a crash can be mended.

    <serving folder>/rollouts/<model>/<number>/rollout.json    one rollout, rewritten whole at each transition
    <serving folder>/rollouts/<model>/golden/<version>.npz     golden queries of each version that was ever placed

The states, and what each may become:

    staged -> validated -> shadowed -> promoting -> promoted -> baked
       |          |           |            |           |          |
       +----------+-----------+------------+           +----------+--> rolling_back -> rolled_back
       |          +-----------+--> inconclusive
       +--> discarded  <-----------------+

``promoting`` and ``rolling_back`` are intents: a process that died there left them to `leanloop.serving.recover`. A
``promoted`` version serves and is watched (its bake); a rollout that nobody watches goes from ``promoting`` straight to
``baked``. Up to ``shadowed`` the rollout lives in one process, which holds a lock that ends with it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AwareDatetime, Field

from leanloop.core.contracts import FileContract, Record
from leanloop.core.errors import ServingError
from leanloop.core.files import inside
from leanloop.core.names import check_name
from leanloop.core.settings import Name
from leanloop.serving.durable import write_in_turn
from leanloop.serving.golden import Golden
from leanloop.serving.model_config import ModelConfig
from leanloop.serving.shadow import ShadowResult

State = Literal[
    "staged",
    "validated",
    "shadowed",
    "inconclusive",
    "promoting",
    "promoted",
    "baked",
    "rolling_back",
    "rolled_back",
    "discarded",
]

IN_STAGE: tuple[State, ...] = ("staged", "validated", "shadowed")
"""Lives in the process that began it."""

INTERRUPTED: tuple[State, ...] = ("promoting", "rolling_back")
"""Left by a process that died, unless one is just doing it."""

_NEXT: dict[State, tuple[State, ...]] = {
    "staged": ("validated", "discarded"),
    "validated": ("shadowed", "promoting", "discarded"),
    "shadowed": ("promoting", "inconclusive", "discarded"),
    "inconclusive": ("discarded",),
    "promoting": ("promoted", "baked", "discarded"),
    "promoted": ("baked", "rolling_back"),
    "baked": ("rolling_back",),
    "rolling_back": ("rolled_back", "promoted", "baked"),
    "rolled_back": (),
    "discarded": (),
}


class Transition(Record):
    """When a state was reached, and why."""

    state: State
    at: AwareDatetime
    reason: str


class Rollout(FileContract):
    """``rollout.json``: one attempt to let a version serve, from its staging to its end."""

    filename: ClassVar[str] = "rollout.json"
    model: Name
    number: int
    artifact_id: str
    transitions: tuple[Transition, ...]
    version: int | None = Field(None, description="the champion that it makes; None before it is placed")
    parent: int | None = Field(None, description="version of the original that the champion was made from")
    before: ModelConfig | None = Field(None, description="what was served before; None at a model's first rollout")
    after: ModelConfig | None = Field(None, description="what the promotion lets serve")
    back: ModelConfig | None = Field(None, description="what the roll-back lets serve")
    bake_seconds: float | None = Field(None, description="how long it may wait for a verdict; None: nobody watches")
    deadline: AwareDatetime | None = Field(
        None, description="without a verdict until then: inconclusive is discarded, promoted is rolled back"
    )
    golden_queries: int | None = Field(None, description="that it answered rightly in its stage")
    shadow: ShadowResult | None = None
    rollback_ms: float | None = Field(None, description="from the decision until the other version answered")
    incident: str | None = Field(None, description="what led to the rollout or to its roll-back")
    release: str | None = Field(None, description="key of the release in the store")

    @property
    def state(self) -> State:
        """Where it is now."""
        return self.transitions[-1].state

    @property
    def reason(self) -> str:
        """Why it is there."""
        return self.transitions[-1].reason

    @property
    def at(self) -> datetime:
        """Since when."""
        return self.transitions[-1].at

    @property
    def previous(self) -> int | None:
        """The champion before it."""
        return None if self.before is None else max(self.before.versions)

    def __str__(self) -> str:
        version = "" if self.version is None else f", version {self.version}"
        return f"rollout {self.number} of {self.model} ({self.state}{version})"


class Journal:
    """All rollouts on this host.

    Args:
        folder: The serving folder; ``rollouts`` is made in it.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.absolute() / "rollouts"
        self._known: dict[Path, tuple[tuple[int, ...], Rollout]] = {}

    def models(self) -> tuple[str, ...]:
        """Models that ever had a rollout, by name."""
        return tuple(sorted({path.parents[1].name for path in self.root.glob(f"*/*/{Rollout.filename}")}))

    def history(self, model: str) -> tuple[Rollout, ...]:
        """All rollouts of a model, oldest first."""
        return tuple(self._newest_first(model))[::-1]

    def serving(self, model: str, version: int) -> Rollout | None:
        """The rollout by which a version serves; None when that was undone, or was before there was a journal."""
        return next(
            (
                rollout
                for rollout in self._newest_first(model)
                if rollout.version == version and rollout.state in ("promoted", "baked")
            ),
            None,
        )

    def interrupted(self, model: str) -> bool:
        """Whether a promotion or a roll-back of this model was begun and not ended."""
        return any(rollout.state in INTERRUPTED for rollout in self.history(model))

    def keep_golden(self, model: str, version: int, golden: Golden) -> None:
        """Keep a version's golden queries, for promotions and health checks to come."""
        golden.save(self._golden(model, version))

    def golden(self, model: str, version: int) -> Golden | None:
        """A version's golden queries; None when none were kept."""
        path = self._golden(model, version)
        return Golden.load(path) if path.exists() else None

    @contextmanager
    def alone(self, model: str) -> Iterator[bool]:
        """Try to be the only one that stages a version of this model; yields whether that is so."""
        with self._lock(model, "stage").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def begin(self, model: str, artifact_id: str, *, incident: str | None = None) -> Iterator[Rollout]:
        """Begin a rollout; when the block is left before the promotion, for whatever reason, it is discarded.

        Args:
            model: Name of the model.
            artifact_id: What shall serve.
            incident: Why, when the loop does it.

        Raises:
            ServingError: Another rollout of this model is on its way.
        """
        with self.alone(model) as is_alone:
            history = self.history(model)
            if not is_alone:
                raise _busy(history[-1] if history else None, model, "Wait until it has ended.")
            self._clear(history)
            rollout = Rollout(
                model=model,
                number=history[-1].number + 1 if history else 1,
                artifact_id=artifact_id,
                transitions=(Transition(state="staged", at=datetime.now(UTC), reason=""),),
                incident=incident,
            )
            rollout.save(self._path(rollout))
            reason = "it ended before the promotion"
            try:
                yield rollout
            except BaseException as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise
            finally:
                self.discard_staged(rollout, reason)

    def discard_staged(self, rollout: Rollout, reason: str) -> Rollout | None:
        """Discard a rollout that came no further than its stage; None when it did."""
        now = Rollout.load(self._path(rollout))
        return self.move(now, "discarded", reason) if now.state in IN_STAGE else None

    def move(
        self,
        rollout: Rollout,
        state: State,
        reason: str = "",
        *,
        then: Mapping[Path, str] | None = None,
        **changes: object,
    ) -> Rollout:
        """Write the next state.

        Args:
            rollout: Which one; what the disk says about it counts.
            state: The next state.
            reason: Why.
            then: Text files that appear right after it, by path; one flush of the disk serves them all.
            changes: Fields of `Rollout` to set with it.

        Raises:
            ServingError: The rollout cannot go there from where it is.
        """
        with self._writing(rollout.model):
            now = Rollout.load(self._path(rollout))
            if state not in _NEXT[now.state]:
                raise ServingError(
                    f"A rollout cannot become {state!r} now.",
                    where=str(now),
                    value=now.reason or None,
                    fix=f"It can become {', '.join(_NEXT[now.state]) or 'nothing else'}.",
                )
            step = Transition(state=state, at=datetime.now(UTC), reason=reason)
            return self._write(now, {**changes, "transitions": (*now.transitions, step)}, then)

    def capture_into(self, folder: Path) -> None:
        """Let what interrupted rollouts may still serve capture into a folder; see `ModelRepository.capture_into`."""
        for model in self.models():
            for rollout in self.history(model):
                if rollout.state in INTERRUPTED:
                    with self._writing(model):
                        now = Rollout.load(self._path(rollout))
                        configs = {name: getattr(now, name) for name in ("before", "after", "back")}
                        self._write(
                            now, {name: one.capturing_into(folder) for name, one in configs.items() if one is not None}
                        )

    def name_release(self, rollout: Rollout, key: str) -> Rollout:
        """Write down under which key of the store its release is."""
        with self._writing(rollout.model):
            return self._write(Rollout.load(self._path(rollout)), {"release": key})

    def _write(self, rollout: Rollout, changes: dict[str, object], then: Mapping[Path, str] | None = None) -> Rollout:
        changed = Rollout.model_validate(dict(rollout) | changes)
        folder = self._path(rollout)
        if then is None:
            changed.save(folder)
        else:
            write_in_turn({folder / Rollout.filename: changed.model_dump_json(indent=2), **then})
        return changed

    def _clear(self, history: tuple[Rollout, ...]) -> None:
        # Called by the only one that may stage: whoever began the staged ones is gone.
        for rollout in history:
            if rollout.state in IN_STAGE:
                self.move(rollout, "discarded", "the process that staged it ended")
            elif rollout.state in INTERRUPTED:
                raise _busy(rollout, rollout.model, "Finish or undo it: `leanloop serve down`, then `serve up`.")
            elif rollout.state == "promoted" and rollout.incident is None:
                # A person's own release, which nobody may ever have watched: the next one decides.
                self.move(rollout, "baked", "a later rollout takes its place")
            elif rollout.state == "promoted":
                accept = f"`leanloop promote {rollout.version}`"
                raise _busy(
                    rollout, rollout.model, f"Accept it with {accept}, undo it with `leanloop rollback`, or wait."
                )
        for rollout in history:
            if rollout.state == "inconclusive":
                self.move(rollout, "discarded", "a later rollout took its place")

    def _newest_first(self, model: str) -> Iterator[Rollout]:
        folder = self._folder(model)
        numbers = [int(path.parent.name) for path in folder.glob(f"*/{Rollout.filename}")]
        return (self._read(folder / str(number)) for number in sorted(numbers, reverse=True))

    def _read(self, folder: Path) -> Rollout:
        """A rollout, read once for each time that it is written: a loop that looks often asks for all of them."""
        found = (folder / Rollout.filename).stat()
        seal = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._known.get(folder)
        if known is None or known[0] != seal:
            known = self._known[folder] = (seal, Rollout.load(folder))
        return known[1]

    def _folder(self, model: str) -> Path:
        return inside(self.root, check_name(model))

    def _path(self, rollout: Rollout) -> Path:
        return self._folder(rollout.model) / str(rollout.number)

    def _golden(self, model: str, version: int) -> Path:
        return self._folder(model) / "golden" / f"{version}.npz"

    def _lock(self, model: str, name: str) -> Path:
        self._folder(model).mkdir(parents=True, exist_ok=True)
        return self._folder(model) / f".{name}.lock"

    @contextmanager
    def _writing(self, model: str) -> Iterator[None]:
        with self._lock(model, "write").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _busy(rollout: Rollout | None, model: str, fix: str) -> ServingError:
    return ServingError(
        "Another rollout of this model is on its way.",
        where=str(rollout) if rollout is not None else model,
        value=None if rollout is None else f"since {rollout.at.isoformat(timespec='seconds')}",
        fix=fix,
    )
