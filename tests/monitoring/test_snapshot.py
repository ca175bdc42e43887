"""Live samples become training data only after they are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from leanloop.core.errors import DataError
from leanloop.core.loop_contracts import Snapshot
from leanloop.core.settings import InputSpec
from leanloop.monitoring.collect import rows_of
from leanloop.monitoring.database import open_database
from leanloop.monitoring.labels import Label, Labels
from leanloop.monitoring.snapshot import Schema, source_of, take_snapshot
from leanloop.serving.capture_format import Record

SCHEMA = Schema((InputSpec(name="x", shape=(2,)),), {"x": (0.0, 1.0)}, classes=3)


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return Labels(open_database(f"sqlite:///{tmp_path / 'loop.db'}"))


def record(identity: str, time: float, *values: list[float], version: int = 2) -> Record:
    rng = np.random.default_rng(int(time))
    x = np.array(values, np.float32) if values else rng.random((1, 2), np.float32)
    return Record(identity, "net", version, time, 0.1, {"x": x}, {"y": np.zeros((len(x), 3), np.float32)})


def write(root: Path, name: str, *records: Record) -> None:
    folder = root / "model=net" / f"version={records[0].version}" / "date=2026-01-01"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_of(records), folder / f"{name}.parquet")


def snapshot(root: Path, labels: Labels, since: float = 0.0, **limits: float) -> tuple[Snapshot, dict[str, np.ndarray]]:
    out = root.parent / "snapshot"
    found = take_snapshot(
        root,
        labels,
        out,
        model="net",
        bundle_digest="b" * 64,
        schema=SCHEMA,
        since=since,
        **limits,  # type: ignore[arg-type]
    )
    assert Snapshot.load(out) == found
    with np.load(out / "data.npz", allow_pickle=False) as archive:
        return found, dict(archive)


def test_rows_and_labels_come_together_oldest_first(tmp_path: Path, labels: Labels) -> None:
    write(tmp_path / "rows", "b", record("two", 20.0, [0.1, 0.2], [0.3, 0.4]))
    write(tmp_path / "rows", "a", record("three", 30.0), record("one", 10.0), version_one := record("zero", 5.0))
    write(tmp_path / "rows", "c", record("v3", 25.0, version=3))
    labels.add("net", [Label(request_id="two", sample=1, label=2), Label(request_id="zero", label=1)])
    found, data = snapshot(tmp_path / "rows", labels, since=10.0)
    assert data["request_id"].tolist() == ["one", "two", "two", "v3", "three"]
    np.testing.assert_array_equal(data["label"], [np.nan, np.nan, 2, np.nan, np.nan])
    np.testing.assert_allclose(data["inputs/x"][1:3], [[0.1, 0.2], [0.3, 0.4]])
    assert (found.records, found.labelled, found.versions) == (5, 1, (2, 3))
    assert (found.first, found.last) == (10.0, 30.0)
    assert version_one.id not in data["request_id"]


def test_what_is_wrong_is_quarantined_and_counted(tmp_path: Path, labels: Labels) -> None:
    rows = tmp_path / "rows"
    write(rows, "good", record("good", 1.0), record("label", 2.0))
    write(
        rows, "bad", record("nan", 3.0, [np.nan, 0.0]), record("far", 4.0, [0.0, 40.0]), record("inf", 5.0, [np.inf, 0])
    )
    write(rows, "shape", record("shape", 6.0, [0.0, 0.0, 0.0]))
    write(rows, "twice", record("again", 7.0, [0.5, 0.5]), record("and-again", 8.0, [0.5, 0.5]))
    other = record("type", 9.0)
    write(
        rows, "type", Record(other.id, "net", 2, 9.0, 0.1, {"x": other.inputs["x"].astype(np.float64)}, other.outputs)
    )
    write(rows, "name", Record(other.id, "net", 2, 9.0, 0.1, {"z": other.inputs["x"]}, other.outputs))
    labels.add("net", [Label(request_id="label", label=3), Label(request_id="and-again", label=1)])
    found, data = snapshot(rows, labels)
    assert found.quarantined == {
        "NaN or infinite values": 2,
        "values far outside the calibration data": 1,
        "another shape than the model's input": 1,
        "another type than the model's input": 1,
        "an input is missing": 1,
        "the same as another record": 1,
        "an impossible label": 1,
    }
    assert data["request_id"].tolist() == ["good", "and-again"]  # of two alike, the labelled one


def test_no_source_gives_more_than_its_share(tmp_path: Path, labels: Labels) -> None:
    rows = tmp_path / "rows"
    flood = [record(f"flood-{number:03}", 100.0 + number) for number in range(60)]
    rest = [
        record(f"{name}-{number}", 200.0 + 10 * index + number)
        for index, name in enumerate("abcd")
        for number in range(10)
    ]
    write(rows, "all", *flood, *rest)
    found, data = snapshot(rows, labels, source_share=0.25)
    assert found.sources == {"flood": 25, "a": 10, "b": 10, "c": 10, "d": 10}
    assert found.quarantined == {"more than its source's share": 35}
    assert "flood-059" in data["request_id"]
    assert "flood-000" not in data["request_id"]


def test_a_single_source_is_no_flood(tmp_path: Path, labels: Labels) -> None:
    write(tmp_path / "rows", "all", *(record(f"only-{number}", 1.0 + number) for number in range(20)))
    assert snapshot(tmp_path / "rows", labels)[0].records == 20


def test_of_many_the_labelled_and_newest_stay(tmp_path: Path, labels: Labels) -> None:
    write(tmp_path / "rows", "all", *(record(f"r{number:02}", 1.0 + number) for number in range(20)))
    labels.add("net", [Label(request_id="r03", label=1)])
    _, data = snapshot(tmp_path / "rows", labels, most=4)
    assert data["request_id"].tolist() == ["r03", "r17", "r18", "r19"]


def test_the_same_rows_give_the_same_snapshot(tmp_path: Path, labels: Labels) -> None:
    write(tmp_path / "rows", "all", *(record(f"s{number % 3}-{number}", 1.0) for number in range(30)))
    assert snapshot(tmp_path / "rows", labels)[0] == snapshot(tmp_path / "rows", labels)[0]


def test_nothing_captured_is_said(tmp_path: Path, labels: Labels) -> None:
    with pytest.raises(DataError, match="no live samples"):
        snapshot(tmp_path / "rows", labels)


def test_a_request_id_names_its_source_where_it_has_one() -> None:
    assert [source_of(text) for text in ("till-7.1", "a.b-c", "abc", "0" * 32)] == ["till", "a", "", ""]
    assert source_of("6ba7b810-9dad-11d1-80b4-00c04fd430c8") == ""
