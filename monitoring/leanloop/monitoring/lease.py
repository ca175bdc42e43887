"""A lease: what only one may do at a time, however many processes there are, even when one of them dies."""

from __future__ import annotations

from sqlalchemy import Engine, delete, or_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from leanloop.monitoring.database import LeaseRow


def take_lease(engine: Engine, name: str, holder: str, *, now: float, seconds: float) -> bool:
    """Take or renew a lease; False when another holds it.

    Args:
        engine: Of `leanloop.monitoring.database.open_database`.
        name: Of what only one may do.
        holder: Who asks.
        now: Unix time.
        seconds: It ends by itself after that, unless it is renewed.
    """
    free = or_(LeaseRow.holder == holder, LeaseRow.until < now)
    with Session(engine) as session, session.begin():
        taken = session.execute(
            update(LeaseRow).where(LeaseRow.name == name, free).values(holder=holder, until=now + seconds)
        )
        if taken.rowcount:  # type: ignore[attr-defined]
            return True
        try:
            with session.begin_nested():
                session.add(LeaseRow(name=name, holder=holder, until=now + seconds))
        except IntegrityError:
            return False
        return True


def give_back_lease(engine: Engine, name: str, holder: str) -> None:
    """End a lease early; nothing happens when another holds it."""
    with Session(engine) as session, session.begin():
        session.execute(delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder))
