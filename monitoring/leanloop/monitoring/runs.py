"""Runs that the loop or a person asked for: written down first, started second, never forgotten, never started twice.

One run at a time on a machine (a lease); a person may ask for one whenever none is under way, the loop by itself only
within its policy: a pause after each run, so many a day, and none after so many refusals for one cause.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from leanloop.core.errors import ServingError
from leanloop.core.launcher import Kind, Launcher, RunRequest, RunState
from leanloop.core.settings import TriggerSettings
from leanloop.monitoring.database import RunRow
from leanloop.monitoring.lease import give_back_lease, take_lease

LEASE = "run"
LEASE_SECONDS = 120.0
MOST_ATTEMPTS = 2
"""A run whose process dies is started again once: what it had finished is in the store."""

_DAY = 24 * 3600.0

_Ledger = Literal["requested", "running", "released", "refused", "failed", "dropped"]
_UNDER_WAY: tuple[_Ledger, ...] = ("requested", "running")


@dataclass(frozen=True)
class RunEntry:
    """One line of the ledger.

    Attributes:
        request: What was asked.
        cause: Diagnosed; empty when a person asked.
        state: ``requested`` until its process was seen; ``dropped`` when its reason went before it had ended.
        requested: Unix time.
        ended: Unix time; None while it is under way.
        attempts: How often it was started.
        result: How it ended; None while it is under way.
    """

    request: RunRequest
    cause: str
    state: _Ledger
    requested: float
    ended: float | None
    attempts: int
    result: RunState | None


@dataclass(frozen=True)
class Hindrance:
    """Why the loop does not start a run now; ``final`` when waiting does not help and a person must decide."""

    reason: str
    final: bool


class Runs:
    """The ledger.

    Args:
        engine: Of `leanloop.monitoring.database.open_database`.
        launcher: Starts processes.
    """

    def __init__(self, engine: Engine, launcher: Launcher) -> None:
        self._engine, self._launcher = engine, launcher

    def hindrance(
        self, policy: TriggerSettings, model: str, cause: str, *, now: float, released: float = 0.0
    ) -> Hindrance | None:
        """Why the loop may not start a run by itself; None when it may.

        Args:
            policy: Pause, runs a day, refusals.
            model: Name of the model.
            cause: Of the incident.
            now: Unix time.
            released: Unix time of the release that serves: refusals before it count no more.
        """
        if not policy.automatic:
            return Hindrance("repairs by itself are switched off (monitoring.trigger.automatic)", final=True)
        past = [one for one in self.entries(model) if one.request.incident is not None and one.state != "dropped"]
        last = next((entry for entry in past if entry.ended is not None), None)
        if _refused_in_a_row([one for one in past if one.requested >= released], cause) >= policy.rejections:
            return Hindrance(f"{policy.rejections} runs for this cause brought nothing better", final=True)
        today = sum(entry.requested > now - _DAY for entry in past)
        if today >= policy.daily_runs:
            return Hindrance(f"{today} runs in 24 hours: no more than {policy.daily_runs} are allowed", final=False)
        pause = policy.cooldown_minutes * 60
        if last is not None and last.ended is not None and now < last.ended + pause:
            return Hindrance(f"{(last.ended + pause - now) / 60:.0f} min left of the pause after a run", final=False)
        under_way = self.under_way()
        if under_way is not None:
            return Hindrance(f"run {under_way.request.id} is under way", final=False)
        return None

    def request(
        self,
        model: str,
        kind: Kind,
        reason: str,
        *,
        cause: str = "",
        incident: str | None = None,
        since: float | None = None,
        concurrency: int = 1,
        now: float | None = None,
    ) -> RunRequest:
        """Write down that a run shall start; `advance` starts it.

        Raises:
            ServingError: Another one is under way.
        """
        at = time.time() if now is None else now
        stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%d-%H%M%S")
        asked = RunRequest(
            id=f"{model}-{stamp}-{secrets.token_hex(2)}",
            model=model,
            kind=kind,
            reason=reason,
            incident=incident,
            since=since,
            concurrency=concurrency,
        )
        # A run whose service died long ago has lost its lease, but not its turn.
        holder = self.under_way()
        if holder is not None or not take_lease(self._engine, LEASE, asked.id, now=at, seconds=LEASE_SECONDS):
            raise ServingError(
                "Another run is under way: there is one at a time.",
                where=model,
                value=holder.request.id if holder is not None else "a run of another service",
                fix="Wait until it has ended (`leanloop status`).",
            )
        with Session(self._engine) as session, session.begin():
            session.add(
                RunRow(
                    id=asked.id,
                    model=model,
                    kind=kind,
                    cause=cause,
                    incident=incident,
                    state="requested",
                    requested=at,
                    attempts=0,
                    request=asked.model_dump(mode="json"),
                )
            )
        return asked

    def advance(self, *, now: float | None = None) -> tuple[RunEntry, ...]:
        """Start what was requested, look after what runs; returns the runs that ended since the last call."""
        at = time.time() if now is None else now
        with Session(self._engine) as session:
            rows = session.scalars(select(RunRow).where(RunRow.state.in_(_UNDER_WAY)).order_by(RunRow.requested))
            waiting = [_entry(row) for row in rows]
        return tuple(ended for entry in waiting if (ended := self._look_after(entry, at)) is not None)

    def _look_after(self, entry: RunEntry, now: float) -> RunEntry | None:
        run = entry.request.id
        if not take_lease(self._engine, LEASE, run, now=now, seconds=LEASE_SECONDS):
            return None  # another service looks after a run; ours waits
        found = self._launcher.look(run)
        if found.state in ("absent", "died"):
            if entry.attempts >= MOST_ATTEMPTS:
                found = RunState(state="failed", detail=found.detail or "its process died, twice")
            else:
                # The attempt is counted before it is made: a start that kills us too is not tried for ever.
                self._change(run, state="running", attempts=entry.attempts + 1)
                self._launcher.start(entry.request)
                return None
        if found.state == "running":
            self._change(run, state="running")
            return None
        self._change(run, state=found.state, ended=now, result=found.model_dump(mode="json"))
        give_back_lease(self._engine, LEASE, run)
        return self.entry(run)

    def drop(self, incident: str, reason: str, *, now: float) -> str | None:
        """End the run for an incident that has gone, unless a process is at it.

        Args:
            incident: That the run was asked for.
            reason: For people.
            now: Unix time.

        Returns:
            The run that a process is at: it goes on, to its end.
        """
        entry = self.newest_for(incident)
        if entry is None or entry.state not in _UNDER_WAY:
            return None
        run, state = entry.request.id, self._launcher.look(entry.request.id).state
        if state not in ("absent", "died"):
            return run if state == "running" else None
        result = RunState(state="failed", detail=reason)
        self._change(run, state="dropped", ended=now, result=result.model_dump(mode="json"))
        give_back_lease(self._engine, LEASE, run)
        return None

    def _change(self, run: str, **values: object) -> None:
        with Session(self._engine) as session, session.begin():
            row = session.get_one(RunRow, run)
            for name, value in values.items():
                setattr(row, name, value)

    def entry(self, run: str) -> RunEntry:
        """One line of the ledger; an unknown id is a KeyError."""
        with Session(self._engine) as session:
            row = session.get(RunRow, run)
            if row is None:
                raise KeyError(run)
            return _entry(row)

    def entries(self, model: str | None = None, *, most: int = 100) -> tuple[RunEntry, ...]:
        """The newest runs of one model, or of all, newest first."""
        wanted = select(RunRow).order_by(RunRow.requested.desc()).limit(most)
        if model is not None:
            wanted = wanted.where(RunRow.model == model)
        with Session(self._engine) as session:
            return tuple(_entry(row) for row in session.scalars(wanted))

    def newest_for(self, incident: str) -> RunEntry | None:
        """The newest run for an incident; None when there was none."""
        wanted = select(RunRow).where(RunRow.incident == incident).order_by(RunRow.requested.desc())
        with Session(self._engine) as session:
            row = session.scalars(wanted).first()
            return None if row is None else _entry(row)

    def under_way(self) -> RunEntry | None:
        """The run that has not ended."""
        with Session(self._engine) as session:
            row = session.scalars(select(RunRow).where(RunRow.state.in_(_UNDER_WAY))).first()
            return None if row is None else _entry(row)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many runs there were, by model and state."""
        with Session(self._engine) as session:
            rows = session.execute(
                select(RunRow.model, RunRow.state, func.count()).group_by(RunRow.model, RunRow.state)
            )
            return {(model, state): count for model, state, count in rows}


def _refused_in_a_row(newest_first: Sequence[RunEntry], cause: str) -> int:
    count = 0
    for entry in newest_first:
        if entry.cause != cause or entry.state not in ("refused", "failed"):
            break
        count += 1
    return count


def _entry(row: RunRow) -> RunEntry:
    return RunEntry(
        request=RunRequest.model_validate(row.request),
        cause=row.cause,
        state=row.state,  # type: ignore[arg-type]
        requested=row.requested,
        ended=row.ended,
        attempts=row.attempts,
        result=None if row.result is None else RunState.model_validate(row.result),
    )
