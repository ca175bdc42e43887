"""Segments: exact for every type, whole or absent, within the quota, and never in a request's way."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from leanloop.serving.capture_format import Capture, Counters, Record, pack_record, read_segment

DTYPES = ["bool", "uint8", "int8", "int64", "float16", "float32", "float64"]
tensors = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_side=0)))


def record(identity: str = "a", **inputs: np.ndarray) -> Record:
    return Record(identity, "net", 2, 1234.5, 0.25, inputs or {"x": np.ones((1, 2), np.float32)}, {"y": np.zeros(1)})


def requests(folder: Path) -> list[Record]:
    return [
        item for path in sorted(folder.glob("*.segment")) for item in read_segment(path) if isinstance(item, Record)
    ]


def counters(folder: Path) -> Counters:
    last = sorted(folder.glob("*.segment"))[-1]
    return [item for item in read_segment(last) if isinstance(item, Counters)][-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(tensors, st.text(max_size=8))
def test_every_number_comes_back_as_it_was(tmp_path: Path, values: np.ndarray, identity: str) -> None:
    path = tmp_path / "one.segment"
    path.write_bytes(b"LLCAP\x01\r\n" + pack_record(record(identity, x=values)))
    (found,) = read_segment(path)
    assert isinstance(found, Record)
    assert found.id == identity
    assert found.inputs["x"].dtype == values.dtype
    assert found.inputs["x"].tobytes() == values.tobytes()
    assert found.inputs["x"].shape == values.shape


@given(st.lists(st.one_of(st.binary(max_size=9), st.text(max_size=9).map(str.encode)), min_size=1))
def test_texts_come_back_as_bytes(elements: list[bytes]) -> None:
    from leanloop.serving.capture_format import _pack_array, _unpack_array

    column = np.array([*elements, None], dtype=object)[:-1].reshape(-1, 1)
    found = _unpack_array(_pack_array(column), "text", list(column.shape))
    assert found.tolist() == column.tolist()


def test_what_is_offered_is_written_in_order_with_counters(tmp_path: Path) -> None:
    capture = Capture(tmp_path, rate=1.0, segment_bytes=2_000)
    for index in range(50):
        capture.offer(record(str(index)))
    capture.close()
    assert [found.id for found in requests(tmp_path)] == [str(index) for index in range(50)]
    assert len(list(tmp_path.glob("*.segment"))) > 3
    assert counters(tmp_path)[1:] == (50, 0, 0, 0)
    assert not list(tmp_path.glob("*.part"))


def test_a_quiet_time_ends_a_segment(tmp_path: Path) -> None:
    capture = Capture(tmp_path, rate=1.0, segment_seconds=0.1)
    capture.offer(record())
    deadline = time.monotonic() + 10
    while not requests(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    capture.close()


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    capture = Capture(tmp_path, rate=1.0, queue_records=4)
    write = capture._write_segment
    monkeypatch.setattr(capture, "_write_segment", lambda first: (free.wait(10), write(first)))
    capture.offer(record("first"))
    while capture._queue:
        time.sleep(0.01)
    for index in range(10):
        capture.offer(record(str(index)))
    assert capture.counters.dropped == 6
    free.set()
    capture.close()
    assert [found.id for found in requests(tmp_path)] == ["first", "0", "1", "2", "3"]
    assert counters(tmp_path).dropped == 6


def test_the_writer_is_not_woken_for_each_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture, woken = Capture(tmp_path, rate=1.0, queue_records=100, segment_seconds=60), []
    capture.offer(record("first"))
    while capture._queue:
        time.sleep(0.01)
    wake = capture._wake.set
    monkeypatch.setattr(capture._wake, "set", lambda: (woken.append(len(capture._queue)), wake()))
    for index in range(40):
        capture.offer(record(str(index)))
    assert not woken
    capture.close()
    assert [found.id for found in requests(tmp_path)] == ["first", *map(str, range(40))]


def test_the_oldest_segments_go_when_the_quota_is_full(tmp_path: Path) -> None:
    capture = Capture(tmp_path, rate=1.0, segment_bytes=1, quota_bytes=2_000)
    for index in range(30):
        capture.offer(record(str(index)))
    capture.close()
    kept = [int(found.id) for found in requests(tmp_path)]
    assert kept == list(range(30 - len(kept), 30))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.segment")) <= 2_000
    assert capture.counters.removed == 30 - len(kept)


def test_a_disk_that_takes_nothing_loses_records_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "capture"
    capture = Capture(folder, rate=1.0, segment_bytes=1)
    folder.rmdir()
    capture.offer(record("lost"))
    deadline = time.monotonic() + 10
    while capture.counters.lost != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    folder.mkdir()
    capture.offer(record("kept"))
    capture.close()
    assert [found.id for found in requests(folder)] == ["kept"]
    assert counters(folder)[1:] == (1, 0, 1, 0)


def test_the_sample_is_the_same_everywhere_and_has_its_share(tmp_path: Path) -> None:
    one, two = (Capture(tmp_path / name, rate=0.1) for name in "ab")
    identities = [str(uuid.UUID(int=index)) for index in range(20_000)]
    chosen = list(filter(one.wanted, identities))
    assert chosen == list(filter(two.wanted, identities))
    assert len(chosen) / len(identities) == pytest.approx(0.1, abs=0.01)
    assert all(map(Capture(tmp_path / "c", rate=1.0).wanted, identities))
    assert not any(map(Capture(tmp_path / "d", rate=0.0).wanted, identities))


@pytest.mark.parametrize("damage", ["cut", "flip", "magic"])
def test_a_damaged_segment_is_told(tmp_path: Path, damage: str) -> None:
    capture = Capture(tmp_path, rate=1.0)
    capture.offer(record("whole"))
    capture.offer(record("damaged"))
    capture.close()
    (path,) = tmp_path.glob("*.segment")
    data = bytearray(path.read_bytes())
    whole = 8 + len(pack_record(record("whole")))
    if damage == "cut":
        del data[whole + 20 :]
    elif damage == "flip":
        data[whole + 30] ^= 1
    else:
        data[5] = 2
    path.write_bytes(data)
    found = []
    with pytest.raises(ValueError, match=r"damaged|cut off|not a capture"):
        found.extend(read_segment(path))
    reader = read_segment(path)
    if damage != "magic":
        first = next(reader)
        assert isinstance(first, Record)
        assert first.id == "whole"
