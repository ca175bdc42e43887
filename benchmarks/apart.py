"""Work in a process of its own: its memory is gone when it ends, and nothing that ran before is counted with it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a function returns, from a process that ends with this one, whatever ends it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        return pool.submit(work, *arguments).result()


def attempted(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """As `apart`; where that fails, no winner and the reason, so that the bench goes on and tells of it."""
    try:
        return apart(work, *arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is the result of this part
        traceback.print_exc(file=sys.stderr)
        return {"winner": None, "reason": reason_of(error), "peak_memory_bytes": 0}


def reason_of(error: BaseException) -> str:
    """One line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _end_with_parent() -> None:
    # A pool's process waits for its next task for ever when the parent was killed, and a search in it would go on
    # beside the one that takes its place.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()
