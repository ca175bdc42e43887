"""Who lives is told by counters that change, never by clocks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from leanloop.core.store import Store
from leanloop.optimize.pulse import Pulse


@pytest.fixture
def store() -> Store:
    return Store(f"memory://pulse-{time.monotonic_ns()}")


def make(store: Store, worker: int, dead_after: float = 0.4) -> Pulse:
    return Pulse(store, "study", worker, beat_seconds=0.02, dead_after_seconds=dead_after)


def becomes(condition: Callable[[], bool], within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_worker_that_beats_lives_and_one_that_stopped_is_dead(store: Store) -> None:
    with make(store, 0) as mine, make(store, 1, dead_after=0.4) as other:
        assert becomes(lambda: store.get_json("studies/study/pulse/1.json") is not None)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert mine.dead(2) == set()
            time.sleep(0.01)
        # As a killed process leaves it: no last word.
        other._ended.set = lambda: None  # type: ignore[method-assign]
        frozen = store.get_json("studies/study/pulse/1.json")
        store.put_json = lambda key, document: None  # type: ignore[method-assign]
        assert frozen is not None
        assert becomes(lambda: mine.dead(2) == {1})
        assert not mine.is_dead(0)
        del other._ended.set, store.put_json


def test_a_beat_that_the_store_does_not_take_is_not_the_last(store: Store) -> None:
    put, refused = store.put_json, []

    def full(key: str, document: dict[str, object]) -> None:
        if len(refused) < 3:
            refused.append(key)
            raise OSError("No space left on device")
        put(key, document)

    store.put_json = full  # type: ignore[method-assign]
    with make(store, 1):
        assert becomes(lambda: (store.get_json("studies/study/pulse/1.json") or {}).get("count", 0) > 4)
    assert len(refused) == 3
    del store.put_json


def test_one_that_ended_its_work_is_not_dead(store: Store) -> None:
    mine = make(store, 0, dead_after=0.1)
    with make(store, 1):
        mine.dead(2)
    assert store.get_json("studies/study/pulse/1.json")["ended"]
    mine.dead(2)
    time.sleep(0.2)
    assert mine.dead(2) == set()


def test_one_that_never_came_is_dead_in_time_and_lives_when_it_comes(store: Store) -> None:
    mine = make(store, 0, dead_after=0.2)
    assert not mine.is_dead(1)
    assert becomes(lambda: mine.is_dead(1))
    with make(store, 1):
        assert becomes(lambda: not mine.is_dead(1))
