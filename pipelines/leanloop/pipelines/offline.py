"""The line without Kubeflow and without serving, for a notebook: each step once, in a child process of its own."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import psutil

from leanloop.core.child import run_limited
from leanloop.core.events import EVENTS_VARIABLE
from leanloop.core.settings import Settings
from leanloop.pipelines.workers import run_workers

_STEP_SECONDS = 4 * 3600.0


def run_offline(settings: str, project: str, folder: str, events: str) -> None:
    """Bundle -> analyze -> optimize (parallel workers) -> convert -> benchmark -> select.

    Args:
        settings: As JSON, paths absolute.
        project: Folder that the settings' relative paths start from.
        folder: Gets one folder per step: ``bundle``, ``analysis``, ``candidates`` (a folder per worker), ``artifacts``,
            ``benchmark``, ``verdict``.
        events: File that the steps report to.

    Raises:
        LeanloopError: The first failure of a step.
    """
    os.environ[EVENTS_VARIABLE] = events
    wanted, out = Settings.from_json(settings), Path(folder)
    bundle, analysis, candidates = out / "bundle", out / "analysis", out / "candidates"
    artifacts, benchmark, verdict = out / "artifacts", out / "benchmark", out / "verdict"
    _step(out, "bundle", settings, project=project, bundle=bundle)
    _step(out, "analyze", settings, bundle=bundle, analysis=analysis)
    run_workers(wanted, bundle=bundle, analysis=analysis, out=candidates)
    workers = [str(candidates / f"worker-{worker}") for worker in range(wanted.optimize.workers)]
    _step(out, "convert", settings, bundle=bundle, candidates=workers, artifacts=artifacts)
    _step(out, "benchmark", settings, bundle=bundle, artifacts=artifacts, benchmark=benchmark)
    _step(
        out,
        "select",
        settings,
        bundle=bundle,
        analysis=analysis,
        artifacts=artifacts,
        benchmark=benchmark,
        verdict=verdict,
    )


def _step(out: Path, name: str, settings: str, **paths: str | Path | list[str]) -> None:
    # A process for each, as in a pipeline: what one step imported and loaded does not weigh on what the next measures.
    arguments: dict[str, Any] = {key: value if isinstance(value, list) else str(value) for key, value in paths.items()}
    run_limited(
        "leanloop.pipelines.offline:run_step",
        {"name": name, "settings": settings, "paths": arguments},
        folder=out / "process" / name,
        timeout_seconds=_STEP_SECONDS,
        memory_bytes=psutil.virtual_memory().total,
    )


def run_step(name: str, settings: str, paths: dict[str, Any]) -> None:
    """One step, in its own process."""
    as_paths = {
        key: [Path(one) for one in value] if isinstance(value, list) else Path(value) for key, value in paths.items()
    }
    importlib.import_module(f"leanloop.steps.{name}").run(Settings.from_json(settings), **as_paths)
