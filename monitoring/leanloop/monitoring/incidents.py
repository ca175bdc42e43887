"""Incidents: what is wrong with a release, from the first sign to how it ended. One row each, never deleted.

An incident is about one question of one model's release. While it is open, what is seen of it changes it; it ends when
the question is quiet again, when another release serves, or when it turns out to be part of a graver one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from leanloop.monitoring.database import IncidentRow
from leanloop.monitoring.diagnosis import Action, Evidence, Question, Row

IncidentState = Literal["open", "acting", "paged", "recorded", "closed"]
"""``open``: nothing was done yet. ``acting``: a run or a repair is under way. ``paged``: a person must look."""

OPEN: tuple[IncidentState, ...] = ("open", "acting", "paged", "recorded")


@dataclass(frozen=True)
class Incident:
    """One incident, as it stands.

    Attributes:
        id: Sorts by time.
        model: Name of the model.
        version: Of the release that it is about.
        question: What is wrong.
        cause: What is thought to be the reason.
        action: What shall be done.
        state: How far that is.
        opened: Unix time.
        updated: Unix time of the last change.
        closed: Unix time; None while it is open.
        evidence: What was seen when it was last changed: `Evidence` as data, with figures.
        note: The latest thing worth telling.
    """

    id: str
    model: str
    version: int
    question: Question
    cause: str
    action: Action
    state: IncidentState
    opened: float
    updated: float
    closed: float | None
    evidence: Mapping[str, Any]
    note: str


class Incidents:
    """The incidents of all models.

    Args:
        engine: Of `leanloop.monitoring.database.open_database`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def observe(
        self, model: str, version: int, row: Row, evidence: Evidence, figures: Mapping[str, Any], *, now: float
    ) -> Incident | None:
        """Take in a diagnosis, and return the incident that it belongs to; None when nothing is wrong.

        Args:
            model: Name of the model.
            version: Of the release that serves.
            row: What `leanloop.monitoring.diagnosis.diagnose` decided.
            evidence: On what.
            figures: Behind the evidence, as data.
            now: Unix time.
        """
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            current = None
            for incident in self._rows(session, model):
                if incident.version == version and incident.question == row.question:
                    current = incident
                elif incident.state != "acting":
                    # What runs for an incident ends it; all others follow what is seen.
                    _close(incident, now, _why_closed(incident, version, row))
            if row.action == "nothing":
                return None
            if current is None:
                current = IncidentRow(
                    id=_new_id(now), model=model, version=version, question=row.question, opened=now, note=""
                )
                current.state = "open"
                session.add(current)
            changed = current.cause != row.cause
            if changed and current.state in ("recorded", "paged"):
                current.state = "open"
            current.cause, current.action = row.cause, row.action
            current.evidence = {**asdict(evidence), **figures}
            current.updated = now
            return _incident(current)

    def change(self, incident: str, state: IncidentState, note: str, *, now: float) -> None:
        """Say how far the action is."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(IncidentRow, incident)
            row.state, row.note, row.updated = state, note, now
            row.closed = now if state == "closed" else None

    def open(self, model: str | None = None) -> tuple[Incident, ...]:
        """Open incidents of one model, or of all, oldest first."""
        with Session(self._engine) as session:
            return tuple(_incident(row) for row in self._rows(session, model))

    def latest(self, count: int, model: str | None = None) -> tuple[Incident, ...]:
        """The newest incidents, open or not, newest first."""
        wanted = select(IncidentRow).order_by(IncidentRow.opened.desc()).limit(count)
        if model is not None:
            wanted = wanted.where(IncidentRow.model == model)
        with Session(self._engine) as session:
            return tuple(_incident(row) for row in session.scalars(wanted))

    @staticmethod
    def _rows(session: Session, model: str | None) -> Sequence[IncidentRow]:
        wanted = select(IncidentRow).where(IncidentRow.state.in_(OPEN)).order_by(IncidentRow.opened)
        if model is not None:
            wanted = wanted.where(IncidentRow.model == model)
        return session.scalars(wanted).all()


def _new_id(now: float) -> str:
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{secrets.token_hex(3)}"


def _why_closed(incident: IncidentRow, version: int, row: Row) -> str:
    if incident.version != version:
        return f"version {version} serves now"
    return "it is over" if row.action == "nothing" else f"it is part of another: {row.cause}"


def _close(incident: IncidentRow, now: float, note: str) -> None:
    incident.state, incident.note, incident.updated, incident.closed = "closed", note, now, now


def _incident(row: IncidentRow) -> Incident:
    return Incident(**{name: getattr(row, name) for name in Incident.__dataclass_fields__})
