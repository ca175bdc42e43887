"""Reports behind incidents, written in the background: the loop never waits for them."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from leanloop.core.errors import LeanloopError
from leanloop.core.files import inside
from leanloop.monitoring.feed import Window
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.reports import Reporter, Reports

log = logging.getLogger(__name__)

ReportKind = Literal["drift", "quality"]


class Explainer:
    """Writes one report after another, in a worker that lives as long as this does.

    Args:
        folder: Where the reports go.
        level: Chance of a false alarm per window, as the judgement uses it.
    """

    def __init__(self, folder: Path, level: float) -> None:
        self._folder, self._level = folder, level
        self._reporter = Reporter(folder)
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="reports")

    def explain(self, name: str, baseline: Baseline, window: Window, output: str, labels: np.ndarray) -> None:
        """Have a window reported on, under a name; what cannot be written is told in the log.

        Args:
            name: Of the incident, or of who asks.
            baseline: Of the release that answered.
            window: Which one.
            output: Name of the model's first output.
            labels: Class numbers, [records], negative where none has come.
        """

        def write() -> Reports:
            return self._reporter.write(
                name, baseline, window.inputs, window.outputs[output], level=self._level, labels=labels
            )

        self._queue.submit(write).add_done_callback(lambda done: _tell(name, done))

    def report(self, name: str, kind: ReportKind) -> Path | None:
        """A report that was written; None when it was not, or not yet.

        Raises:
            StoreError: The name leads out of the folder.
        """
        path = inside(self._folder, f"{name}-{kind}.html")
        return path if path.exists() else None

    def close(self) -> None:
        """End the worker, after the report that it is at."""
        self._queue.shutdown(cancel_futures=True)
        self._reporter.close()


def _tell(name: str, done: Future[Reports]) -> None:
    if done.cancelled():
        return
    error = done.exception()
    if error is None:
        log.info("report on %s: %s", name, done.result().drift)
    elif isinstance(error, LeanloopError):
        log.error("no report on %s: %s", name, error)
    else:
        log.error("no report on %s", name, exc_info=error)
