from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanloop.core.errors import StoreError
from leanloop.core.files import (
    atomic_file,
    atomic_folder,
    digest_folder,
    digest_json,
    inside,
    read_json,
    write_json,
    write_text,
)

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError), atomic_file(path) as temporary:
        temporary.write_text("new")
        (tmp_path / "gone").stat()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one_and_no_rubbish(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        write_text(folder / "a", "1")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out") as folder:
        write_text(folder / "b", "2")
        (tmp_path / "gone").stat()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["a"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "out") as folder:
            write_text(folder / name, name)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["b"]


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="disk is full"), atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with pytest.raises(StoreError, match="disk is full"), atomic_file(tmp_path / "a"), full.open("wb", 0) as stream:
        stream.write(b"x")


@given(DOCUMENTS)
def test_digest_survives_a_round_trip(document: object) -> None:
    assert digest_json(document) == digest_json(json.loads(json.dumps(document)))


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert names(tmp_path) == []


def test_unreadable_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StoreError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_folder_digest_sees_names_and_contents(tmp_path: Path) -> None:
    digests = set()
    for name, text in (("a", "1"), ("b", "1"), ("a", "2")):
        with atomic_folder(tmp_path / "out") as folder:
            write_text(folder / name, text)
        digests.add(digest_folder(tmp_path / "out"))
    assert len(digests) == 3


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "link/x"])
def test_no_name_leads_out_of_its_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(StoreError, match="leads out"):
        inside(tmp_path, name)
