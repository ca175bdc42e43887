"""Alerts, as Alertmanager tells them: late, twice, in any order, and to be taken as hints only.

An episode is one alert from its start to its end; its key is (fingerprint, start). It is written down once, before it
is acknowledged. What cannot be meant for us is refused and counted, not answered with an error: Alertmanager would only
tell it again.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from leanloop.monitoring.database import AlertRow

MOST_ALERTS = 500
"""In one message."""

OLDEST_SECONDS = 24 * 3600.0
LATEST_SECONDS = 300.0
"""An alert that began longer ago, or begins later than this, is not believed: clocks differ by less."""


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
        repeated: Told before, in the same state.
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


@dataclass(frozen=True)
class Firing:
    """An alert that was told and has not ended."""

    name: str
    model: str
    since: datetime


class Alerts:
    """The alerts of all models.

    Args:
        engine: Of `leanloop.monitoring.database.open_database`.
        names: Alerts that mean something to the loop; others are refused.
    """

    def __init__(self, engine: Engine, names: Collection[str]) -> None:
        self._engine = engine
        self._names = frozenset(names)

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

    def _doubt(self, alert: Alert, models: Collection[str], now: float) -> str:
        started = alert.startsAt.timestamp()
        if alert.labels.get("alertname") not in self._names:
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
            if known is None and alert.status == "resolved":
                told.refuse("ended before it was told")
            elif known is None:
                row = AlertRow(
                    fingerprint=alert.fingerprint,
                    starts_at=started,
                    name=alert.labels["alertname"],
                    model=alert.labels["model"],
                    status=alert.status,
                    received=now,
                )
                try:
                    with session.begin_nested():
                        session.add(row)
                    told.new += 1
                except IntegrityError:  # told twice at the same moment
                    told.repeated += 1
            elif known.status == "firing" and alert.status == "resolved":
                known.status = "resolved"
                told.resolved += 1
            else:
                # One that ended does not fire again under the same start: an old message came late.
                told.repeated += 1

    def firing(self, model: str) -> tuple[Firing, ...]:
        """Alerts about a model that were told and have not ended, oldest first."""
        with Session(self._engine) as session:
            wanted = select(AlertRow).where(AlertRow.model == model, AlertRow.status == "firing")
            rows = session.scalars(wanted.order_by(AlertRow.starts_at))
            return tuple(Firing(row.name, row.model, datetime.fromtimestamp(row.starts_at, UTC)) for row in rows)
