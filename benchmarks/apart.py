"""Work in a process of its own: its memory is gone when it ends, and nothing that ran before is counted with it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a function returns, from a process that ends with this one, whatever ends it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        return pool.submit(work, *arguments).result()


def _end_with_parent() -> None:
    # A pool's process waits for its next task for ever when the parent was killed, and a search in it would go on
    # beside the one that takes its place.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()
