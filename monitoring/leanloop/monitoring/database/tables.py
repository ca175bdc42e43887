"""The tables of the monitor."""

from __future__ import annotations

from sqlalchemy import JSON, Float, Integer, String
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
