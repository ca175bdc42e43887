"""A database that an earlier leanloop made is brought up to date with all that it holds."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text

from leanloop.monitoring import database
from leanloop.monitoring.database import open_database
from leanloop.monitoring.watch import taken_rows


def migrate(url: str, revision: str, *, back: bool = False) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    with create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(config, revision)


def test_what_the_second_revision_holds_goes_through_the_third_and_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'loop.db'}"
    migrate(url, "0002")
    with create_engine(url).begin() as connection:
        connection.execute(text("INSERT INTO windows VALUES (1, 'net', 2, 10.0, 20.0, 500, 3, 1, '{}')"))
        connection.execute(text("INSERT INTO alerts VALUES (1, 'ab', 5.0, 'Slow', 'net', 'firing', 6.0, 'i')"))
        connection.execute(text("INSERT INTO taken VALUES ('net', 2, 'a.parquet', 7)"))
    engine = open_database(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT records, broken, verdict FROM windows")).one() == (500, 3, "{}")
        kept = connection.execute(text("SELECT name, version, source, incident FROM alerts")).one()
        assert kept == ("Slow", None, "told", "i")
    assert taken_rows(engine, "net", 2) == {"a.parquet": 7}
    assert "drifts" not in {column["name"] for column in inspect(engine).get_columns("windows")}
    engine.dispose()
    migrate(url, "0002", back=True)
    with create_engine(url).connect() as connection:
        assert connection.execute(text("SELECT last_time, drifts FROM windows")).one() == (20.0, None)
        assert connection.execute(text("SELECT name, incident FROM alerts")).one() == ("Slow", "i")
