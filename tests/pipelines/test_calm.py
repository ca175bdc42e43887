"""A story begins from calm, or says what keeps it from that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from leanloop.core.errors import ServingError
from leanloop.monitoring.view import ModelView
from leanloop.pipelines.demo import story
from leanloop.pipelines.demo.story import await_calm
from tests.pipelines.test_status import NET, SLOW

CALM = NET.model_copy(update={"incidents": ()})
ENDED = {"id": "net-0", "ended": 60.0}
RUN = {"id": "net-1", "ended": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_POLL_SECONDS", 0.0)


def wait(
    models: Sequence[ModelView], runs: Sequence[list[dict[str, Any]]], seconds: float = 60.0
) -> tuple[ModelView, list[str]]:
    said: list[str] = []
    look: Iterator[ModelView] = iter(models)
    return await_calm(look.__next__, iter(runs).__next__, said.append, seconds), said


def test_where_all_is_calm_the_story_begins_at_once() -> None:
    assert wait([CALM], [[ENDED]]) == (CALM, [])


def test_what_is_waited_for_is_told_once_each() -> None:
    newer = CALM.model_copy(update={"version": 3})
    changed = SLOW.model_copy(update={"note": "run net-1 released"})
    busy = NET, NET.model_copy(update={"incidents": (changed,)}), newer, newer
    model, said = wait(busy, [[RUN], [RUN], [RUN, ENDED], [ENDED]])
    assert model == newer
    assert said == [
        f"waiting for calm under clean traffic, 60 s at most: incident {SLOW.id} is open ({SLOW.cause}: {SLOW.note})",
        "waiting for calm under clean traffic, 60 s at most: run net-1 has not ended",
    ]


def test_what_does_not_become_calm_is_named_with_the_way_out() -> None:
    with pytest.raises(ServingError, match="so no story can begin") as caught:
        wait([NET, NET], [[RUN], [RUN]], seconds=0.0)
    error = caught.value
    assert error.where == "net"
    assert SLOW.id in str(error.value)
    assert "net-1" in str(error.value)
    assert "`leanloop run`" in error.fix
