"""Alerts, as Alertmanager tells and Prometheus shows them: late, twice, in any order, and to be taken as hints only.

An episode is one alert from its start to its end; its key is (fingerprint, start). It is written down once, before it
is acknowledged, and belongs to the incident of its model, release and question. What cannot be meant for us is refused
and counted, not answered with an error: Alertmanager would only tell it again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from leanloop.monitoring.database import AlertRow
from leanloop.monitoring.incidents import Incident
from leanloop.monitoring.prometheus import ActiveAlert

MOST_ALERTS = 500
"""In one message."""

OLDEST_SECONDS = 24 * 3600.0
LATEST_SECONDS = 300.0
"""An alert that began longer ago, or begins later than this, is not believed: clocks differ by less."""

_INCIDENT_QUESTIONS = {"estimate": "accuracy"}
"""Where an alert's question is not the incident's: an estimate that falls is an incident of accuracy."""


class Alert(BaseModel):
    """One alert of Alertmanager's message; other keys are ignored."""

    model_config = ConfigDict(frozen=True)

    status: Literal["firing", "resolved"]
    labels: Annotated[dict[str, Annotated[str, Field(max_length=256)]], Field(max_length=64)]
    startsAt: AwareDatetime  # noqa: N815 - Alertmanager's name
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class AlertMessage(BaseModel):
    """Alertmanager's webhook message, version 4; other keys are ignored."""

    model_config = ConfigDict(frozen=True)

    version: Literal["4"]
    alerts: Annotated[list[Alert], Field(max_length=MOST_ALERTS)]


@dataclass
class Received:
    """What became of a message's alerts.

    Attributes:
        new: Episodes written down.
        repeated: Known before, in the same state.
        resolved: Episodes that ended.
        refused: Not believed, by reason.
    """

    new: int = 0
    repeated: int = 0
    resolved: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        """Count one more."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


class Alerts:
    """The alerts of all models.

    Args:
        engine: Of `leanloop.monitoring.database.open_database`.
        questions: What each alert is about, by its name; alerts of other names are refused.
    """

    def __init__(self, engine: Engine, questions: Mapping[str, str]) -> None:
        self._engine = engine
        self._questions = questions

    def receive(self, message: AlertMessage, models: Collection[str], *, now: float | None = None) -> Received:
        """Write down a message's alerts; returning means that they are on the disk.

        Args:
            message: As it came.
            models: That are served; alerts about others are refused.
            now: Unix time; the clock's without it.
        """
        at = time.time() if now is None else now
        told = Received()
        for alert in message.alerts:
            reason = self._doubt(alert, models, at)
            if reason:
                told.refuse(reason)
            else:
                self._keep(alert, at, told)
        return told

    def poll(self, active: Sequence[ActiveAlert], models: Collection[str], *, now: float) -> None:
        """Take in what Prometheus says of all alerts: what nobody told is written down, what fires no more has ended.

        Args:
            active: All that fire.
            models: That are served; alerts about others are left out.
            now: Unix time at which Prometheus was asked, or shortly before.
        """
        firing = {one.fingerprint: one for one in active if one.name in self._questions and one.model in models}
        with Session(self._engine) as session, session.begin():
            known = set()
            for row in session.scalars(select(AlertRow).where(AlertRow.status == "firing")):
                known.add(row.fingerprint)
                if row.fingerprint not in firing and row.received < now:
                    row.status = "resolved"
            for fingerprint in firing.keys() - known:
                self._see(session, firing[fingerprint], now)

    def attach(self, incident: Incident) -> None:
        """Let the alerts that fire, have no incident yet and are about this one belong to it."""
        with Session(self._engine) as session, session.begin():
            about = (AlertRow.model == incident.model, AlertRow.status == "firing", AlertRow.incident.is_(None))
            for row in session.scalars(select(AlertRow).where(*about)):
                if self._is_about(row, incident):
                    row.incident = incident.id

    def of(self, incidents: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The names of the alerts that belong to incidents, by the incident's id; none is ``()``."""
        names: dict[str, set[str]] = defaultdict(set)
        with Session(self._engine) as session:
            rows = select(AlertRow.incident, AlertRow.name).where(AlertRow.incident.in_(incidents))
            for incident, name in session.execute(rows):
                if incident is not None:
                    names[incident].add(name)
        return {incident: tuple(sorted(names[incident])) for incident in incidents}

    def _is_about(self, row: AlertRow, incident: Incident) -> bool:
        question = self._questions.get(row.name, "")
        if question == "person":
            fits = incident.state == "paged"
        else:
            fits = incident.question == _INCIDENT_QUESTIONS.get(question, question)
        return fits and row.version in (None, incident.version)

    def _doubt(self, alert: Alert, models: Collection[str], now: float) -> str:
        started = alert.startsAt.timestamp()
        if alert.labels.get("alertname") not in self._questions:
            return "unknown alert"
        if alert.labels.get("model") not in models:
            return "unknown model"
        if started > now + LATEST_SECONDS:
            return "starts in the future"
        if started < now - OLDEST_SECONDS and alert.status == "firing":
            return "started too long ago"
        return ""

    def _keep(self, alert: Alert, now: float, told: Received) -> None:
        started = alert.startsAt.timestamp()
        with Session(self._engine) as session, session.begin():
            key = (AlertRow.fingerprint == alert.fingerprint, AlertRow.starts_at == started)
            known = session.scalars(select(AlertRow).where(*key)).one_or_none()
            if known is None:
                known = self._adopt(session, alert.fingerprint, started)
            if known is None and alert.status == "resolved":
                told.refuse("ended before it was told")
            elif known is None:
                row = _row(alert.fingerprint, started, alert.labels, "told", now)
                if _add(session, row):
                    told.new += 1
                else:  # told twice at the same moment
                    told.repeated += 1
            elif known.status == "firing" and alert.status == "resolved":
                known.status = "resolved"
                told.resolved += 1
            else:
                # One that ended does not fire again under the same start: an old message came late.
                told.repeated += 1

    @staticmethod
    def _adopt(session: Session, fingerprint: str, started: float) -> AlertRow | None:
        """The same episode as it was polled: Prometheus shows when the condition began, and tells when it fired."""
        polled = (AlertRow.fingerprint == fingerprint, AlertRow.source == "polled", AlertRow.status == "firing")
        row = session.scalars(select(AlertRow).where(*polled, AlertRow.starts_at <= started)).first()
        if row is not None:
            row.source, row.starts_at = "told", started
        return row

    @staticmethod
    def _see(session: Session, alert: ActiveAlert, now: float) -> None:
        """Write down an alert that fires and is not known to."""
        started = alert.since.timestamp()
        same = (AlertRow.fingerprint == alert.fingerprint, AlertRow.starts_at >= started)
        row = session.scalars(select(AlertRow).where(*same).order_by(AlertRow.starts_at.desc())).first()
        if row is not None:
            row.status = "firing"  # Alertmanager takes for ended what Prometheus could not tell it for a while
        else:
            _add(session, _row(alert.fingerprint, started, alert.labels, "polled", now))


def _row(fingerprint: str, started: float, labels: Mapping[str, str], source: str, now: float) -> AlertRow:
    version = labels.get("version", "")
    return AlertRow(
        fingerprint=fingerprint,
        starts_at=started,
        name=labels["alertname"],
        model=labels["model"],
        version=int(version) if version.isdecimal() else None,
        status="firing",
        source=source,
        received=now,
    )


def _add(session: Session, row: AlertRow) -> bool:
    """Whether it was not there: another thread may write the same at the same moment."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return False
    return True
