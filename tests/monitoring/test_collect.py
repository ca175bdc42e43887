"""Segments become rows: exact, partitioned, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from leanloop.monitoring.collect import Collector, rows_of, tensor_of
from leanloop.serving.capture_format import MAGIC, Capture, Record, pack_record

DAY = 86_400.0


def record(
    identity: str,
    *,
    model: str = "net",
    version: int = 1,
    time: float = DAY,
    samples: int = 2,
    compute_ms: float = 0.5,
) -> Record:
    rng = np.random.default_rng(len(identity) + samples)
    inputs = {
        "image": rng.normal(size=(samples, 1, 2, 3)).astype(np.float32),
        "kind": np.full((samples, 1), 7, np.uint8),
    }
    return Record(identity, model, version, time, compute_ms, inputs, {"logits": rng.normal(size=(samples, 4))})


def captured(folder: Path, *records: Record) -> None:
    capture = Capture(folder, rate=1.0)
    for one in records:
        capture.offer(one)
    capture.close()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_a_tensor_comes_back_as_it_was(dtype: str) -> None:
    values = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    table = rows_of([Record("a", "net", 1, 1.0, 1.0, {"x": values}, {"y": values[:, 0]})])
    assert tensor_of(table, "input.x").dtype == values.dtype
    assert np.array_equal(tensor_of(table, "input.x"), values)
    assert np.array_equal(tensor_of(table, "output.y"), values[:, 0])


def test_text_comes_back_as_bytes() -> None:
    values = np.array([[b"one", b""], [b"\xff", b"two"]], dtype=object)
    table = rows_of([Record("a", "net", 1, 1.0, 1.0, {"x": values}, {"y": np.zeros(2)})])
    assert tensor_of(table, "input.x").tolist() == values.tolist()


def test_rows_are_partitioned_and_name_their_request(tmp_path: Path) -> None:
    segments, root = tmp_path / "segments", tmp_path / "rows"
    records = [record("a"), record("b", version=2), record("c", model="other", time=2 * DAY), record("d", samples=3)]
    captured(segments, *records)
    collector = Collector(segments, root)
    assert collector.collect() == 9
    assert not list(segments.glob("*.segment"))
    found = {str(path.parent.relative_to(root)) for path in root.rglob("*.parquet")}
    assert found == {
        "model=net/version=1/date=1970-01-02",
        "model=net/version=2/date=1970-01-02",
        "model=other/version=1/date=1970-01-03",
    }
    table = ds.dataset(root / "model=net/version=1", partitioning="hive").to_table()
    assert table.column("request_id").to_pylist() == ["a", "a", "d", "d", "d"]
    assert table.column("sample").to_pylist() == [0, 1, 0, 1, 2]
    assert np.array_equal(tensor_of(table, "input.image")[:2], records[0].inputs["image"])
    assert collector.done.newest == 2 * DAY
    assert collector.done.lag_seconds(now=2 * DAY + 5) == 5
    assert collector.done.dropped == 0


def test_compute_times_are_counted_by_release(tmp_path: Path) -> None:
    captured(tmp_path / "segments", record("a"), record("b", compute_ms=30.0), record("c", compute_ms=5e3))
    collector = Collector(tmp_path / "segments", tmp_path / "rows")
    collector.collect()
    times = collector.done.compute["net", 1]
    counts = dict(times.buckets())
    assert (counts[2.5e-4], counts[5e-4], counts[0.025], counts[0.05], counts[1.0]) == (0, 1, 1, 2, 2)
    assert times.requests == 3
    assert times.total_seconds == pytest.approx(5.0305)


def test_a_segment_that_is_read_again_after_a_crash_gives_its_rows_once(tmp_path: Path) -> None:
    segments, root = tmp_path / "segments", tmp_path / "rows"
    captured(segments, record("a"), record("b"))
    (path,) = segments.glob("*.segment")
    data = path.read_bytes()
    Collector(segments, root).collect()
    path.write_bytes(data)
    Collector(segments, root).collect()
    assert pq.read_table(next(root.rglob("*.parquet"))).num_rows == 4
    assert len(list(root.rglob("*.parquet"))) == 1


def test_what_is_whole_of_a_damaged_segment_is_kept(tmp_path: Path) -> None:
    segments, root = tmp_path / "segments", tmp_path / "rows"
    segments.mkdir()
    (segments / "1.segment").write_bytes(MAGIC + pack_record(record("whole")) + pack_record(record("cut"))[:-3])
    (segments / "2.segment").write_bytes(b"nonsense")
    captured(segments, record("after"))
    collector = Collector(segments, root)
    assert collector.collect() == 4
    assert collector.done.damaged == 2
    assert {path.name for path in (segments / "damaged").iterdir()} == {"1.segment", "2.segment"}
    assert collector.collect() == 0


def test_requests_of_different_shapes_do_not_spoil_each_other(tmp_path: Path) -> None:
    segments, root = tmp_path / "segments", tmp_path / "rows"
    other = record("b", samples=1)._replace(inputs={"image": np.zeros((1, 5), np.float32)})
    captured(segments, record("a"), other)
    assert Collector(segments, root).collect() == 3
    assert len(list(root.rglob("*.parquet"))) == 2


def test_a_request_whose_tensors_disagree_is_damage(tmp_path: Path) -> None:
    captured(tmp_path, record("a")._replace(outputs={"logits": np.zeros((3, 4))}))
    collector = Collector(tmp_path, tmp_path / "rows")
    assert collector.collect() == 0
    assert collector.done.damaged == 1


def test_a_model_name_never_leads_out_of_the_root(tmp_path: Path) -> None:
    segments, root = tmp_path / "segments", tmp_path / "rows"
    captured(segments, record("a"), record("b", model="../../escaped"))
    collector = Collector(segments, root)
    assert collector.collect() == 2
    assert collector.done.damaged == 1
    assert not list(tmp_path.rglob("*escaped*"))
