"""The tables of the monitor."""

from __future__ import annotations

from sqlalchemy import JSON, Float, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """All tables."""


class LabelRow(Table):
    """What was right for one sample of one request: the first label that came."""

    __tablename__ = "labels"

    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    request_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    sample: Mapped[int] = mapped_column(Integer, primary_key=True)
    label: Mapped[object] = mapped_column(JSON)
    received: Mapped[float] = mapped_column(Float, index=True)


class LabelConflict(Table):
    """A later label for the same sample that says otherwise; the first one stands."""

    __tablename__ = "label_conflicts"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str] = mapped_column(String(64), index=True)
    request_id: Mapped[str] = mapped_column(String(64))
    sample: Mapped[int] = mapped_column(Integer)
    label: Mapped[object] = mapped_column(JSON)
    received: Mapped[float] = mapped_column(Float)


class WindowRow(Table):
    """One judged window of one release: what the loop's memory is rebuilt from when its process is started again."""

    __tablename__ = "windows"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str] = mapped_column(String(64), index=True)
    version: Mapped[int] = mapped_column(Integer)
    first_time: Mapped[float] = mapped_column(Float)
    last_time: Mapped[float] = mapped_column(Float, index=True)
    records: Mapped[int] = mapped_column(Integer)
    broken: Mapped[int] = mapped_column(Integer)
    verdict: Mapped[dict[str, object]] = mapped_column(JSON)


class TakenRow(Table):
    """How many rows of one captured file went into judged windows, written together with them."""

    __tablename__ = "taken"

    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    file: Mapped[str] = mapped_column(String(255), primary_key=True)
    rows: Mapped[int] = mapped_column(Integer)


class IncidentRow(Table):
    """One thing that is wrong with one release: what was seen, what was thought, what was done, how it ended."""

    __tablename__ = "incidents"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(64), index=True)
    version: Mapped[int] = mapped_column(Integer)
    question: Mapped[str] = mapped_column(String(32))
    cause: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), index=True)
    opened: Mapped[float] = mapped_column(Float)
    updated: Mapped[float] = mapped_column(Float)
    closed: Mapped[float | None] = mapped_column(Float)
    evidence: Mapped[dict[str, object]] = mapped_column(JSON)
    note: Mapped[str] = mapped_column(String(2000))


class AlertRow(Table):
    """One alert as Alertmanager told it (``told``) or Prometheus showed it (``polled``), once per episode."""

    __tablename__ = "alerts"
    __table_args__ = (UniqueConstraint("fingerprint", "starts_at"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    starts_at: Mapped[float] = mapped_column(Float)
    name: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(64), index=True)
    version: Mapped[int | None] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(16), server_default="told")
    received: Mapped[float] = mapped_column(Float)
    incident: Mapped[str | None] = mapped_column(String(64), index=True)


class RunRow(Table):
    """One run that the loop or a person started: written before it starts, so that it is never forgotten."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    model: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    cause: Mapped[str] = mapped_column(String(200))
    incident: Mapped[str | None] = mapped_column(String(64), index=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    requested: Mapped[float] = mapped_column(Float)
    ended: Mapped[float | None] = mapped_column(Float)
    attempts: Mapped[int] = mapped_column(Integer)
    request: Mapped[dict[str, object]] = mapped_column(JSON)
    result: Mapped[dict[str, object] | None] = mapped_column(JSON)


class LeaseRow(Table):
    """Who may do what only one may do at a time, and until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(128))
    until: Mapped[float] = mapped_column(Float)
