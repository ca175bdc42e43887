"""What is kept stays within its bounds, the oldest goes first, and what is judged stays judged."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from leanloop.monitoring.database import IncidentRow, TakenRow, WindowRow, open_database
from leanloop.monitoring.diagnosis import Evidence, diagnose
from leanloop.monitoring.incidents import Incidents
from leanloop.monitoring.labels import Label, Labels
from leanloop.monitoring.retention import clean_up

DAY = 24 * 3600.0
NOW = 100 * DAY


def test_the_oldest_goes_first(tmp_path: Path) -> None:
    root, engine = tmp_path / "rows", open_database(f"sqlite:///{tmp_path / 'loop.db'}")
    names = [("a", "3"), ("b", "1"), ("a", "2")]
    for model, name in names:
        path = root / f"model={model}/version=1/date=2026-11-22/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
        with Session(engine) as session, session.begin():
            session.add(TakenRow(model=model, version=1, file=path.name, rows=5))
    labels = Labels(engine)
    labels.add("a", [Label(request_id="old", label=1)], received=NOW - 31 * DAY)
    labels.add("a", [Label(request_id="new", label=1)], received=NOW - DAY)
    for last in (NOW - 31 * DAY, NOW - DAY):
        with Session(engine) as session, session.begin():
            verdict: dict[str, object] = {}
            session.add(
                WindowRow(
                    model="a",
                    version=1,
                    first_time=last,
                    last_time=last,
                    records=1,
                    broken=0,
                    verdict=verdict,
                )
            )
    evidence = Evidence(inputs="drifting", accuracy="ok")
    Incidents(engine).observe("a", 1, diagnose(evidence), evidence, {}, now=1.0)

    assert clean_up(root, engine, quota_bytes=200, keep_days=30, now=NOW) == 1
    assert sorted(path.stem for path in root.rglob("*.parquet")) == ["2", "3"]
    assert clean_up(root, engine, quota_bytes=200, keep_days=30, now=NOW) == 0
    assert labels.of("a", {"old", "new"}) == {("new", 0): 1}
    with Session(engine) as session:
        assert sorted(session.scalars(select(TakenRow.file))) == ["2.parquet", "3.parquet"]
        assert list(session.scalars(select(WindowRow.last_time))) == [NOW - DAY]
        assert len(list(session.scalars(select(IncidentRow)))) == 1
