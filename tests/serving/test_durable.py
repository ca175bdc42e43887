"""Files that appear in turn: whole, in their order, and none when one cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from leanloop.core.errors import StoreError
from leanloop.serving.durable import write_in_turn


def test_files_appear_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {tmp_path / name: name * 9 for name in "bca"}
    replace, appeared = Path.replace, []

    def watched(self: Path, target: Path) -> Path:
        appeared.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_in_turn(texts)
    assert appeared == list(texts)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == texts


def test_no_file_changes_when_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(StoreError, match="could not be written"):
        write_in_turn({tmp_path / "a": "after", tmp_path / "nowhere" / "b": "after"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"
