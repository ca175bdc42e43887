"""Step 4: measure every artifact side by side on this machine."""

from __future__ import annotations

from pathlib import Path

from leanloop.core.contracts import Artifacts
from leanloop.core.events import step_events
from leanloop.core.files import atomic_folder
from leanloop.core.settings import Settings


def run(settings: Settings, *, bundle: Path, artifacts: Path, benchmark: Path) -> None:
    """Latency, throughput, memory, size and accuracy of all artifacts.

    Args:
        settings: The run's settings.
        bundle: Folder of `leanloop.steps.bundle`.
        artifacts: Folder of `leanloop.steps.convert`.
        benchmark: Folder to write (`Benchmark`).
    """
    with step_events("benchmark"):
        from leanloop.benchmark import benchmark_variants
        from leanloop.bundle import Bundle

        with atomic_folder(benchmark) as folder:
            found = Artifacts.load(artifacts)
            benchmark_variants(Bundle(bundle), found, artifacts, settings, folder).save(folder)
