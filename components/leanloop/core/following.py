"""Progress bars of a run, in a terminal or a notebook, read from its ``events.jsonl`` and nothing else."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from leanloop.core.events import read_events

_POLL_SECONDS = 0.2


class _Board:
    """One bar per step; parallel workers of a step share its bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._workers: dict[str, dict[Any, float]] = defaultdict(dict)

    def show(self, event: dict[str, Any]) -> None:
        step, worker = event["step"], event.get("worker")
        match event["kind"]:
            case "step_started":
                if step not in self._bars:
                    self._bars[step] = self._progress.add_task(step, total=1.0, what="")
                self._workers[step][worker] = 0.0
            case "progress" if step in self._bars:
                self._workers[step][worker] = min(1.0, event["done"] / max(event["total"], 1e-9))
                self._update(step, what=event["what"])
            case "step_finished":
                self._workers[step][worker] = 1.0
                self._update(step, what="")
            case "step_failed" if step in self._bars:
                self._progress.update(self._bars[step], what="[red]failed")
                self._progress.stop_task(self._bars[step])
            case "selected":
                self._progress.console.print(f"  {event['reason']}", markup=False, highlight=False)
            case "study_begun_anew":
                warning = f"  Warning: {event['reason']}"
                self._progress.console.print(warning, style="yellow", markup=False, highlight=False)

    def _update(self, step: str, what: str) -> None:
        shares = self._workers[step].values()
        self._progress.update(self._bars[step], completed=sum(shares) / len(shares), what=what)


@contextmanager
def following(events: Path, console: Console) -> Iterator[None]:
    """Show what is added to a run's events while the block runs.

    On a pipe or in a log, only the finished bars are printed.

    Args:
        events: The run's ``events.jsonl``; what it holds already is not shown.
        console: To show it on; a quiet one shows nothing.
    """
    _, before = read_events(events)
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=28),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[what]}"),
    )
    ended = threading.Event()
    progress = Progress(*columns, console=console, refresh_per_second=5)
    board = _Board(progress)
    with _shown(progress) as refresh:

        def follow() -> None:
            offset = before
            while True:
                last_look = ended.is_set()
                found, offset = read_events(events, offset)
                for event in found:
                    board.show(event)
                refresh()
                if last_look:
                    return
                ended.wait(_POLL_SECONDS)

        watcher = threading.Thread(target=follow, name="progress")
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


@contextmanager
def _shown(progress: Progress) -> Iterator[Callable[[], None]]:
    """Show the bars while the block runs; gives what brings them up to date where they do not do so themselves."""
    console = progress.console
    if console.quiet or not console.is_jupyter:
        with progress:
            yield lambda: None
        return
    # In a notebook rich shows bars through ipywidgets, and nothing at all without them. A display that is replaced
    # needs no package besides the kernel's own, and stays in the saved notebook.
    from IPython.display import display

    handle = display(progress, display_id=True)  # type: ignore[no-untyped-call]
    yield lambda: handle.update(progress)
