from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from leanloop.core import events
from leanloop.core.contracts import Analysis, BundleManifest, Release
from leanloop.core.errors import DataError, StoreError
from leanloop.core.files import write_json, write_text
from leanloop.core.packed import SUFFIX, packed, worth_packing
from leanloop.core.registry import Registry
from leanloop.core.store import Store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_folders_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    write_text(tmp_path / "in/sub/a.txt", "a")
    write_text(tmp_path / "in/b.txt", "b")
    assert not store.get_folder("x/1", tmp_path / "out")
    store.put_folder("x/1", tmp_path / "in")
    assert store.get_folder("x/1", tmp_path / "out")
    assert (tmp_path / "out/sub/a.txt").read_text() == "a"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.txt", "sub"]


def test_a_sparse_networks_files_are_kept_compressed_and_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    dense = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    sparse = np.where(np.abs(dense) > 1.3, dense, 0)
    (tmp_path / "in").mkdir()
    for name, weights in (("dense", dense), ("sparse", sparse), ("small", np.zeros(100, np.float32))):
        (tmp_path / "in" / f"{name}.bin").write_bytes(weights.tobytes())
    store.put_folder("x", tmp_path / "in")
    kept = {file.rsplit("/", 1)[1]: store._files.size(file) for file in store._files.find(store._path("x"))}
    assert set(kept) == {".complete", "dense.bin", "small.bin", "sparse.bin.packed"}
    assert kept["sparse.bin.packed"] < 0.35 * sparse.nbytes
    assert store.get_folder("x", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["dense.bin", "small.bin", "sparse.bin"]
    for file in (tmp_path / "in").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_compressed_file_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(1 << 17))
    with packed(tmp_path / "weights") as first, packed(tmp_path / "weights") as again:
        assert first.read_bytes() == again.read_bytes()
    assert not first.exists()


def test_a_file_that_is_called_as_compressed_ones_are_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    write_text(tmp_path / f"in/weights{SUFFIX}", "the owner's own")
    assert worth_packing(tmp_path / f"in/weights{SUFFIX}")
    store.put_folder("x", tmp_path / "in")
    assert store.get_folder("x", tmp_path / "out")
    assert (tmp_path / f"out/weights{SUFFIX}").read_text() == "the owner's own"


def test_a_half_written_entry_is_not_there(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "in/a.txt", "a")

    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store._files, "pipe_file", break_off)
        with pytest.raises(KeyboardInterrupt):
            store.put_folder("x/1", tmp_path / "in")
    assert not store.has_folder("x/1")
    store.put_folder("x/1", tmp_path / "in")
    assert store.has_folder("x/1")


def test_entries_are_immutable(store: Store, tmp_path: Path) -> None:
    write_text(tmp_path / "in/a.txt", "first")
    store.put_folder("x", tmp_path / "in")
    write_text(tmp_path / "in/a.txt", "second")
    store.put_folder("x", tmp_path / "in")
    store.get_folder("x", tmp_path / "out")
    assert (tmp_path / "out/a.txt").read_text() == "first"


def test_documents(store: Store) -> None:
    assert store.get_json("r/a.json") is None
    assert store.keys("r") == []
    store.put_json("r/b.json", {"x": 1})
    store.put_json("r/a.json", [])
    store.put_json("r/b.json", {"x": 2})
    assert store.keys("r") == ["r/a.json", "r/b.json"]
    assert store.get_json("r/b.json") == {"x": 2}


@pytest.mark.parametrize("key", ["", "/x", "../x", "a/../../b"])
def test_a_key_stays_inside(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="not a store key"):
        store.has_folder(key)


def _write_many(path: str, worker: int) -> None:
    os.environ[events.EVENTS_VARIABLE] = path
    with events.step_events("optimize", worker):
        for number in range(200):
            events.emit("tick", number=number, padding="x" * 300)


def test_parallel_workers_never_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(str(path), worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found, offset = events.read_events(path)
    assert offset == path.stat().st_size
    for number in range(3):
        ticks = [event["number"] for event in found if event["kind"] == "tick" and event["worker"] == number]
        assert ticks == list(range(200))


def test_a_failing_step_says_why_and_a_half_line_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(events.EVENTS_VARIABLE, str(path))
    with pytest.raises(DataError), events.step_events("bundle"):
        raise DataError("A split is empty.", fix="fill it")
    with path.open("a") as stream:
        stream.write('{"kind": "half')
    found, offset = events.read_events(path)
    assert [event["kind"] for event in found] == ["step_started", "step_failed"]
    error = {"kind": "DataError", "what": "A split is empty.", "where": "", "value": None, "fix": "fill it"}
    assert found[-1]["error"] == error
    with path.open("a") as stream:
        stream.write('"}\n')
    assert [event["kind"] for event in events.read_events(path, offset)[0]] == ["half"]


def test_without_a_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(events.EVENTS_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    events.emit("tick")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("contract", [BundleManifest, Analysis, Release])
def test_a_contract_of_another_version_is_refused(tmp_path: Path, contract: type[BundleManifest]) -> None:
    with pytest.raises(StoreError, match="missing"):
        contract.load(tmp_path)
    write_json(tmp_path / contract.filename, {"schema_version": 2})
    with pytest.raises(StoreError, match="not what this version"):
        contract.load(tmp_path)


def test_registry_refuses_duplicates_and_names_the_known() -> None:
    registry: Registry[int] = Registry("thing")
    registry.register("one")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("one")(2)
    with pytest.raises(Exception, match="Known: one"):
        registry["two"]
    assert list(registry) == ["one"]


def test_a_copied_store_still_reads(tmp_path: Path) -> None:
    write_text(tmp_path / "in/a.txt", "a")
    Store(str(tmp_path / "one")).put_folder("k", tmp_path / "in")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert Store(str(tmp_path / "two")).get_folder("k", tmp_path / "out")


def test_a_folder_is_made_once_and_taken_from_then_on(tmp_path: Path) -> None:
    kept, made = Store(str(tmp_path / "store")), []

    def make(empty: Path) -> None:
        made.append(empty)
        (empty / "a.txt").write_text("made")

    for name in ("first", "second"):
        kept.take_folder("things/1", tmp_path / name, make)
        assert (tmp_path / name / "a.txt").read_text() == "made"
    assert made == [tmp_path / "first"]
