from __future__ import annotations

import threading
import time

from leanloop.core.measure_lock import TrainingTurn, measuring


def test_training_waits_while_somebody_measures_and_measuring_is_never_starved() -> None:
    stop, batches = threading.Event(), [0, 0]

    def train(worker: int) -> None:
        turn = TrainingTurn()
        try:
            while not stop.is_set():
                with turn:
                    batches[worker] += 1
                    time.sleep(0.005)
        finally:
            turn.close()

    trainers = [threading.Thread(target=train, args=(worker,)) for worker in range(2)]
    for trainer in trainers:
        trainer.start()
    try:
        while min(batches) < 5:
            time.sleep(0.01)
        # Two trainers whose turns always overlap would hold a plain shared lock for ever.
        with measuring():
            before = list(batches)
            time.sleep(0.1)
            assert batches == before
        while min(batches) < max(before) + 5:
            time.sleep(0.01)
    finally:
        stop.set()
        for trainer in trainers:
            trainer.join()


def test_measurements_take_turns() -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def measure() -> None:
        nonlocal inside, most
        with measuring():
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with guard:
                inside -= 1

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
