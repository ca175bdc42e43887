"""Telling which workers of a study live, so that what a dead one was at is not lost while the others search on.

Each worker writes a counter into the store, every few seconds. A reader never compares clocks: it notes, by its own
monotonic one, when it last saw a counter change.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from leanloop.core.events import emit
from leanloop.core.store import Store

BEAT_SECONDS = 2.0

DEAD_AFTER_SECONDS = 30.0


class Pulse:
    """One worker's beats, and its view of the others'. A context manager: it beats while the block runs.

    Args:
        store: Shared by the workers.
        study: Name of the study.
        worker: Number of this worker.
        beat_seconds: Between two beats.
        dead_after_seconds: A worker whose counter stood still for so long is taken for dead.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        worker: int,
        *,
        beat_seconds: float = BEAT_SECONDS,
        dead_after_seconds: float = DEAD_AFTER_SECONDS,
    ) -> None:
        self._store, self._study, self._worker = store, study, worker
        self._beat_seconds, self._dead_after = beat_seconds, dead_after_seconds
        self._seen: dict[int, tuple[dict[str, Any] | None, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def is_dead(self, worker: int) -> bool:
        """Whether another worker's counter has stood still for long, as seen from here: the first look cannot tell.

        One that has ended its work is not dead, though it beats no more.
        """
        if worker == self._worker:
            return False
        beat, now = self._last(worker), time.monotonic()
        before, since = self._seen.get(worker, (None, None))
        if since is None or beat != before:
            self._seen[worker] = (beat, now)
            return False
        return now - since > self._dead_after and not _has_ended(beat)

    def dead(self, workers: int) -> set[int]:
        """Those of so many workers that are dead."""
        return {worker for worker in range(workers) if self.is_dead(worker)}

    def brought_here(self, workers: int) -> set[int]:
        """Whose finished trials this worker brings at its end: its own and, as the heir, those of the dead.

        The heir is the lowest worker that lives and is still at work: who has ended has written already. A look now
        and then, between two trials, cannot tell: so the others are watched here until each has beaten again, has
        ended or is dead.

        Args:
            workers: How many there are.
        """
        known: set[int] = set()
        while True:
            at_work, dead = self._watched(workers)
            if dead <= known:
                break
            # Telling a death takes so long that who was at work before may have ended, or died, meanwhile.
            known = dead
        return {self._worker, *dead} if self._worker == min(at_work) else {self._worker}

    def _watched(self, workers: int) -> tuple[set[int], set[int]]:
        """The workers that are at work, this one among them, and the dead: each was seen to be so since the call."""
        at_work, unclear = {self._worker}, set(range(workers)) - {self._worker}
        first = {worker: self._last(worker) for worker in unclear}
        while True:
            dead = self.dead(workers)
            for worker in sorted(unclear):
                beat = self._last(worker)
                if worker in dead or _has_ended(beat):
                    unclear.discard(worker)
                elif beat != first[worker]:
                    unclear.discard(worker)
                    at_work.add(worker)
            if not unclear:
                return at_work - dead, dead
            time.sleep(self._beat_seconds / 2)

    def _beat(self) -> None:
        process, count, ended = uuid.uuid4().hex, 0, False
        while not ended:
            ended = self._ended.wait(self._beat_seconds) if count else False
            try:
                self._store.put_json(self._key(self._worker), {"process": process, "count": count, "ended": ended})
            except Exception as error:  # noqa: BLE001 - whatever the store has, the next beat may reach it
                with suppress(OSError):  # the disk may be full for events, too
                    emit("pulse_missed", worker=self._worker, reason=f"{type(error).__name__}: {error}")
            count += 1

    def _last(self, worker: int) -> dict[str, Any] | None:
        beat: dict[str, Any] | None = self._store.get_json(self._key(worker))
        return beat

    def _key(self, worker: int) -> str:
        return f"studies/{self._study}/pulse/{worker}.json"


def _has_ended(beat: dict[str, Any] | None) -> bool:
    return bool(beat and beat["ended"])
