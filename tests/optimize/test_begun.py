"""A search that cannot go on where the last one was says so, and why."""

from __future__ import annotations

import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leanloop.core.events import EVENTS_VARIABLE, emit, listening, step_events
from leanloop.core.following import following
from leanloop.core.settings import Settings, parse_settings
from leanloop.core.store import Store
from leanloop.optimize import begun
from leanloop.optimize.begun import note_study, parts
from leanloop.optimize.space import Finish, Space
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.distillation import DistillationConfig

SPACE = Space(
    shapes={"channel_pruning": ((ChannelPruningConfig(),),)},
    training=(DistillationConfig(),),
    finishes=(Finish("onnxruntime", (None,)),),
    left_out={},
)


@pytest.fixture
def store() -> Store:
    return Store(f"memory://begun-{time.monotonic_ns()}")


def told(space: Space, settings: Settings, store: Store, bundle: str = "b" * 64) -> list[dict[str, Any]]:
    with listening("study_begun_anew") as heard:
        note_study(space.digest(settings), space, settings, bundle, store)
    return heard


def other(settings: Settings, section: str, **values: object) -> Settings:
    document = settings.model_dump(mode="json")
    document[section] |= values
    return parse_settings(document, source="test")


def test_the_first_study_and_one_that_goes_on_tell_nothing(settings: Settings, store: Store) -> None:
    assert told(SPACE, settings, store) == []
    assert told(SPACE, settings, store) == []
    assert told(SPACE, other(settings, "goal", batch_size=7), store, bundle="c" * 64) == [], "it is of another bundle"
    more = other(settings, "optimize", budget_minutes=77, max_trials=777)
    assert told(SPACE, more, store) == [], "the same study goes on with more time"


def test_another_study_of_the_bundle_tells_what_differs(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(SPACE, settings, store)
    goal = other(settings, "goal", batch_size=7)
    [event] = told(SPACE, goal, store)
    assert event["study"] == SPACE.digest(goal)
    assert "What differs: goal. Results that the store keeps are used again" in event["reason"]
    assert told(SPACE, settings, store) == [], "the first study is still there, and goes on"

    settings = other(settings, "optimize", seed=settings.optimize.seed + 1, trial_timeout_seconds=1234.0)
    [event] = told(replace(SPACE, shapes={}, training=()), settings, store)
    assert "What differs: shapes, training, seed, limits of a trial. " in event["reason"]

    monkeypatch.setattr(begun, "code_version", lambda: "another")
    monkeypatch.setattr(begun, "tool_versions", lambda: {"torch": "0"})
    with listening("study_begun_anew") as heard:
        note_study("another", replace(SPACE, shapes={}, training=()), settings, "b" * 64, store)
    assert "What differs: versions of the tools, leanloop's code. " in heard[0]["reason"]


def test_what_a_study_is_named_after_is_known_by_its_parts(settings: Settings) -> None:
    """Whatever changes the digest that a study's name holds is a part that can be named."""
    spaces = [
        SPACE,
        replace(SPACE, shapes={}),
        replace(SPACE, training=()),
        replace(SPACE, training_anew=(DistillationConfig(),)),
        replace(SPACE, finishes=()),
    ]
    documents = [
        settings,
        other(settings, "goal", threads=3),
        other(settings, "optimize", seed=99),
        other(settings, "optimize", trial_memory_bytes=1 << 40),
        other(settings, "optimize", workers=5),
    ]
    named = {tuple(parts(space, one).values()) for space in spaces for one in documents}
    assert len(named) == len({space.digest(one) for space in spaces for one in documents}) == 20


def test_it_is_shown_as_a_warning_beside_the_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, shown = tmp_path / "events.jsonl", StringIO()
    monkeypatch.setenv(EVENTS_VARIABLE, str(events))
    with following(events, Console(file=shown, width=200)), step_events("optimize", 0):
        emit("study_begun_anew", reason="What differs: [goal].")
    assert "Warning: What differs: [goal].\n" in shown.getvalue()
