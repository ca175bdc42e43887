"""Who lives is told by counters that change, never by clocks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from leanloop.core.store import Store
from leanloop.optimize import pulse as pulse_module
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


class Others:
    """A clock that stands still but for what is slept, and what other workers do at its times."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._store, self._now = store, 0.0
        self._plans: dict[int, Callable[[float], dict[str, object] | None]] = {}
        self.sleep(0)
        monkeypatch.setattr(pulse_module, "time", self)

    def does(self, worker: int, *, until: float, ends: bool = False, again: float = float("inf")) -> None:
        """A worker beats every second until then, when it ends its work or dies; one that died may come again."""

        def beat(now: float) -> dict[str, object]:
            if now >= again:
                return {"process": "second", "count": int(now), "ended": False}
            return {"process": "first", "count": int(min(now, until)), "ended": ends and now >= until}

        self._plans[worker] = beat
        self.sleep(0)

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        for worker, beat in self._plans.items():
            self._store.put_json(f"studies/study/pulse/{worker}.json", beat(self._now))

    def brought(self, worker: int, workers: int) -> set[int]:
        """By a worker that looked once before its last trial, of a minute, and comes to its end then."""
        pulse = Pulse(self._store, "study", worker)
        assert pulse.dead(workers) == set()
        self.sleep(60.0)
        return pulse.brought_here(workers)


@pytest.fixture
def others(store: Store, monkeypatch: pytest.MonkeyPatch) -> Others:
    return Others(store, monkeypatch)


FOR_EVER = float("inf")


def test_one_that_died_during_the_last_trial_is_known_as_dead_at_the_end(others: Others) -> None:
    others.does(1, until=30.0)
    assert others.brought(0, workers=2) == {0, 1}
    assert others.monotonic() < 60.0 + 30.0 + 3.0, "it waits no longer than it takes to tell"


def test_who_lives_brings_its_own(others: Others) -> None:
    others.does(0, until=FOR_EVER)
    others.does(2, until=FOR_EVER)
    assert others.brought(1, workers=3) == {1}
    assert others.monotonic() < 60.0 + 3.0, "a beat of each is all that is waited for"


def test_a_lonely_worker_waits_for_nobody(others: Others) -> None:
    assert others.brought(0, workers=1) == {0}
    assert others.monotonic() == 60.0


def test_the_heir_is_not_one_that_has_ended_and_written_already(others: Others) -> None:
    others.does(0, until=20.0, ends=True)
    others.does(1, until=30.0)
    others.does(3, until=FOR_EVER)
    assert others.brought(2, workers=4) == {1, 2}


def test_the_heir_is_the_lowest_that_is_at_work(others: Others) -> None:
    others.does(0, until=FOR_EVER)
    others.does(1, until=30.0)
    assert others.brought(2, workers=3) == {2}


@pytest.mark.parametrize("ends", [True, False])
def test_one_that_was_at_work_may_have_ended_or_died_until_another_is_known_as_dead(others: Others, ends: bool) -> None:
    """Worker 0 saw worker 1 alive, and ended (or died) while we still waited for the proof that worker 1 is not."""
    others.does(0, until=65.0, ends=ends)
    others.does(1, until=59.0)
    assert others.brought(2, workers=3) == ({1, 2} if ends else {0, 1, 2})


def test_one_that_comes_again_while_it_is_waited_for_brings_its_own(others: Others) -> None:
    others.does(1, until=30.0, again=75.0)
    assert others.brought(0, workers=2) == {0}
