"""How much memory a process and all its children hold at most, while something runs."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

GIB = 1 << 30

SECONDS = 0.1
"""Between two looks: each walks the page tables of all processes."""


class PeakMemory:
    """Samples the proportional memory (PSS: a shared page counts once) of this process and its descendants.

    Args:
        own: Count this process, too. Without it what is watched works in others, which looking costs nothing.

    Attributes:
        bytes: The most that was seen.
    """

    def __init__(self, *, own: bool = True) -> None:
        self.bytes = 0
        self._own = own
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if error is None and not self.bytes:
            raise RuntimeError("no memory was seen: what was to be watched took no time, or nobody watched")

    def _sample(self) -> None:
        own = psutil.Process()
        ended = False
        while not ended:
            together = 0
            for process in (*([own] if self._own else []), *own.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # ended since the list was made
                    together += process.memory_full_info().pss
            self.bytes = max(self.bytes, together)
            ended = self._ended.wait(SECONDS)
