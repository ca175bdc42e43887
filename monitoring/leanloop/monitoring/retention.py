"""What is kept, and for how long: captured rows within a quota, labels and judged windows for some days."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from leanloop.monitoring.collect import files_of
from leanloop.monitoring.database import TakenRow, WindowRow
from leanloop.monitoring.labels import Labels

_DAY = 24 * 3600.0


def clean_up(root: Path, engine: Engine, *, quota_bytes: int, keep_days: float, now: float) -> int:
    """Remove the oldest captured rows beyond the quota, and what the database holds of times long gone.

    Incidents, runs and alerts are the audit trail, and stay.

    Args:
        root: Folder of the rows of all models.
        engine: Of `leanloop.monitoring.database.open_database`.
        quota_bytes: Of all captured rows together.
        keep_days: Of labels and judged windows.
        now: Unix time.

    Returns:
        How many files of rows were removed.
    """
    files = files_of(root)
    sizes = {path: path.stat().st_size for path in files}
    excess, removed = sum(sizes.values()) - quota_bytes, []
    for path in files:
        if excess <= 0:
            break
        path.unlink()
        excess -= sizes[path]
        removed.append(path)
    before = now - keep_days * _DAY
    Labels(engine).forget(before)
    with Session(engine) as session, session.begin():
        session.execute(delete(WindowRow).where(WindowRow.last_time < before))
        kept = {path.name for path in files} - {path.name for path in removed}
        for row in session.scalars(select(TakenRow)):
            if row.file not in kept:
                session.delete(row)
    return len(removed)
