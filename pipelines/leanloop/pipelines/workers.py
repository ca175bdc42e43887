"""All search workers of a run on this machine: one child process each, as the pipeline's loop would start them."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

from leanloop.core.child import run_limited
from leanloop.core.errors import ChildError
from leanloop.core.events import emit
from leanloop.core.files import atomic_folder
from leanloop.core.settings import Settings

_GRACE_SECONDS = 1800.0


def run_workers(settings: Settings, *, bundle: Path, analysis: Path, out: Path) -> None:
    """Run the search with all its workers and gather their folders, ``out/worker-<n>``.

    Raises:
        LeanloopError: The first worker's failure, when any failed twice.
    """
    failures: list[BaseException] = []
    with atomic_folder(out) as folder:

        def work(worker: int) -> None:
            try:
                _run(worker, settings, bundle=bundle, analysis=analysis, candidates=folder / f"worker-{worker}")
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                failures.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(settings.optimize.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


def _run(worker: int, settings: Settings, *, bundle: Path, analysis: Path, candidates: Path) -> None:
    """One worker in a child process; one that died is started again, once, and goes on where it was."""
    for attempt in (1, 2):
        log = Path(tempfile.mkdtemp(prefix=f"leanloop-worker-{worker}-"))
        try:
            run_limited(
                "leanloop.pipelines.workers:run_one",
                {
                    "settings": settings.to_json(),
                    "bundle": str(bundle.resolve()),
                    "analysis": str(analysis.resolve()),
                    "candidates": str(candidates),
                    "worker": worker,
                },
                folder=log,
                timeout_seconds=settings.optimize.budget_minutes * 60 + _GRACE_SECONDS,
                memory_bytes=2 * settings.optimize.trial_memory_bytes,
            )
        except ChildError as error:
            if attempt == 2:
                raise
            emit("worker_restarted", worker=worker, reason=str(error))
        else:
            shutil.rmtree(log)
            return


def run_one(settings: str, bundle: str, analysis: str, candidates: str, worker: int) -> None:
    """One worker, in its own process."""
    from leanloop.steps import optimize

    optimize.run(
        Settings.from_json(settings),
        bundle=Path(bundle),
        analysis=Path(analysis),
        candidates=Path(candidates),
        worker=worker,
    )
