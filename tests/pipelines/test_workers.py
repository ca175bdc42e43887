"""Search workers of a run on this machine: one that died is started again, once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from leanloop.core.errors import ChildError, DataError
from leanloop.core.events import EVENTS_VARIABLE, read_events
from leanloop.core.settings import Settings, parse_settings
from leanloop.pipelines import workers


@pytest.fixture
def two() -> Settings:
    model = {"name": "m", "file": "m.onnx", "inputs": [{"name": "x", "shape": [3]}]}
    return parse_settings({"model": model, "data": {"source": "d.npz"}, "optimize": {"workers": 2}}, source="test")


class Fails:
    """Stands for the child process: fails some calls of worker 1."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls, self._lock = list(errors), [], threading.Lock()

    def __call__(self, function: str, arguments: dict[str, Any], **limits: Any) -> None:
        with self._lock:
            self.calls.append(arguments["worker"])
            error = self.errors.pop(0) if arguments["worker"] == 1 and self.errors else None
        if error is not None:
            raise error
        Path(arguments["candidates"]).mkdir()


def run(settings: Settings, folder: Path) -> None:
    workers.run_workers(settings, bundle=folder / "bundle", analysis=folder / "analysis", out=folder / "out")


def test_one_that_died_is_started_again(two: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Fails(ChildError("A child process died with exit status -9."))
    monkeypatch.setattr(workers, "run_limited", child)
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    run(two, tmp_path)
    assert sorted(child.calls) == [0, 1, 1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["worker-0", "worker-1"]
    told = [event for event in read_events(tmp_path / "events.jsonl")[0] if event["kind"] == "worker_restarted"]
    assert [(event["worker"], "exit status -9" in event["reason"]) for event in told] == [(1, True)]


@pytest.mark.parametrize("error", [ChildError("It died again."), DataError("The data hold NaN.")])
def test_what_fails_again_or_for_a_reason_is_told_and_leaves_nothing(
    two: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first = [ChildError("It died.")] if isinstance(error, ChildError) else []
    monkeypatch.setattr(workers, "run_limited", Fails(*first, error))
    with pytest.raises(type(error), match=str(error)):
        run(two, tmp_path)
    assert not (tmp_path / "out").exists()
