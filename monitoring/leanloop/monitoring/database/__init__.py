"""What must outlive the process: SQLite in the workspace, or any database that SQLAlchemy reaches by URL.

Tables are made and changed by Alembic migrations, from the first one on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event

from leanloop.monitoring.database.tables import (
    AlertRow,
    IncidentRow,
    LabelConflict,
    LabelRow,
    LeaseRow,
    RunRow,
    Table,
    TakenRow,
    WindowRow,
)

__all__ = [
    "AlertRow",
    "IncidentRow",
    "LabelConflict",
    "LabelRow",
    "LeaseRow",
    "RunRow",
    "Table",
    "TakenRow",
    "WindowRow",
    "open_database",
]


def open_database(url: str) -> Engine:
    """Connect, and bring the tables up to date.

    Args:
        url: Of SQLAlchemy, such as ``sqlite:///loop.db`` or ``postgresql+psycopg://user@host/leanloop``.
    """
    from alembic import command
    from alembic.config import Config

    engine = create_engine(url)
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _make_durable)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return engine


def _make_durable(connection: Any, _: Any) -> None:
    # What was acknowledged must survive a loss of power; readers must not wait for the writer, nor fail at once.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 10000")
