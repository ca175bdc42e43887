"""All search workers of a run on this machine: one child process each, as the pipeline's loop would start them."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

from leanloop.core.child import run_limited
from leanloop.core.files import atomic_folder
from leanloop.core.settings import Settings

_GRACE_SECONDS = 1800.0


def run_workers(settings: Settings, *, bundle: Path, analysis: Path, out: Path) -> None:
    """Run the search with all its workers and gather their folders, ``out/worker-<n>``.

    Raises:
        LeanloopError: The first worker's failure, when any failed.
    """
    failures: list[BaseException] = []
    with atomic_folder(out) as folder:

        def work(worker: int) -> None:
            log = Path(tempfile.mkdtemp(prefix=f"leanloop-worker-{worker}-"))
            try:
                run_limited(
                    "leanloop.pipelines.workers:run_one",
                    {
                        "settings": settings.to_json(),
                        "bundle": str(bundle.resolve()),
                        "analysis": str(analysis.resolve()),
                        "candidates": str(folder / f"worker-{worker}"),
                        "worker": worker,
                    },
                    folder=log,
                    timeout_seconds=settings.optimize.budget_minutes * 60 + _GRACE_SECONDS,
                    memory_bytes=2 * settings.optimize.trial_memory_bytes,
                )
                shutil.rmtree(log)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                failures.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(settings.optimize.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


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
