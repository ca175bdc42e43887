"""Projects that land in a watched folder are run once, when they are whole, and again when they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leanloop.pipelines.inbox import Arrival, Inbox


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def land(folder: Path, name: str, text: str = "schema_version: 1\n") -> Path:
    project = folder / name
    project.mkdir(exist_ok=True)
    (project / "params.yaml").write_text(text)
    return project


def test_a_copy_under_way_is_not_taken(inbox: Inbox, tmp_path: Path) -> None:
    project = land(tmp_path, "net")
    assert list(inbox.ready()) == []
    (project / "weights.safetensors").write_bytes(b"half")
    assert list(inbox.ready()) == []
    assert list(inbox.ready()) == [project]


def test_what_is_no_project_is_left_alone(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "params.yaml").write_text("")
    assert [*inbox.ready(), *inbox.ready()] == []


def test_a_project_that_fails_is_told_why_and_not_tried_until_it_changes(inbox: Inbox, tmp_path: Path) -> None:
    project = land(tmp_path, "net", "schema_version: 1\nmodle: {}\n")
    list(inbox.ready())
    assert list(inbox.ready()) == [project]
    arrival = inbox.take(project)
    assert arrival.version is None
    assert "modle" in arrival.failure
    again = Inbox(tmp_path)
    assert again.arrivals() == {"net": arrival}
    assert [*again.ready(), *again.ready()] == []
    (project / "params.yaml").write_text("schema_version: 2\n")
    assert [*again.ready(), *again.ready()] == [project]


def test_what_a_run_leaves_behind_is_no_change(inbox: Inbox, tmp_path: Path) -> None:
    project = land(tmp_path, "net")
    arrival = inbox.take(project)
    assert isinstance(arrival, Arrival)
    for leftover in (".leanloop/runs/log.txt", "__pycache__/model.pyc"):
        (project / leftover).parent.mkdir(parents=True)
        (project / leftover).write_text("")
    assert [*inbox.ready(), *inbox.ready()] == []
    os.utime(project / "params.yaml", (1, 1))
    assert [*inbox.ready(), *inbox.ready()] == [project]
