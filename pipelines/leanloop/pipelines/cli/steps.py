"""Each step alone: what DVC stages call, and what one uses to look at a single step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanloop.pipelines.cli.common import (
    DEFAULT_PARAMS,
    Override,
    Params,
    console,
    project_of,
    read_settings,
    step_progress,
)


def _folder(help_text: str) -> object:
    return typer.Option(help=help_text, file_okay=False)


Bundle = Annotated[Path, _folder("Folder of the bundle step.")]
Analysis = Annotated[Path, _folder("Folder of the analyze step.")]
Candidates = Annotated[Path, _folder("Folder of the optimize step, with a folder per worker.")]
Artifacts = Annotated[Path, _folder("Folder of the convert step.")]
Benchmark = Annotated[Path, _folder("Folder of the benchmark step.")]
Verdict = Annotated[Path, _folder("Folder of the select step.")]
Out = Annotated[Path, _folder("Folder to write.")]

WORK = Path("work")


def add_to(app: typer.Typer) -> None:
    """Add one command per step."""
    for command in (fingerprint, bundle, analyze, optimize, convert, benchmark, select, deploy):
        app.command(rich_help_panel="Steps, each alone")(command)


def bundle(params: Params = DEFAULT_PARAMS, override: Override = None, out: Out = WORK / "bundle") -> None:
    """Pack model, code, samples and data references."""
    from leanloop.steps import bundle as step

    settings = read_settings(params, override)
    with step_progress():
        step.run(settings, project=project_of(params), bundle=out)


def analyze(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    bundle: Bundle = WORK / "bundle",
    out: Out = WORK / "analysis",
) -> None:
    """Measure what each layer costs, where accuracy is sensitive, and what could help."""
    from leanloop.core.contracts import Analysis as Found
    from leanloop.steps import analyze as step

    settings = read_settings(params, override)
    with step_progress():
        step.run(settings, bundle=bundle, analysis=out)
    from leanloop.analyze import render

    console.print(render(Found.load(out)))


def optimize(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    bundle: Bundle = WORK / "bundle",
    analysis: Analysis = WORK / "analysis",
    out: Out = WORK / "candidates",
    worker: Annotated[int | None, typer.Option(help="Be only this worker of the search; else all run here.")] = None,
) -> None:
    """Search for the smallest and fastest version that keeps the accuracy."""
    from leanloop.pipelines.workers import run_workers
    from leanloop.steps import optimize as step

    settings = read_settings(params, override)
    if worker is not None:
        step.run(settings, bundle=bundle, analysis=analysis, candidates=out, worker=worker)
        return
    with step_progress():
        run_workers(settings, bundle=bundle, analysis=analysis, out=out)


def convert(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    bundle: Bundle = WORK / "bundle",
    candidates: Candidates = WORK / "candidates",
    out: Out = WORK / "artifacts",
) -> None:
    """Finish the finalists and check them against the original."""
    from leanloop.steps import convert as step

    settings = read_settings(params, override)
    workers = sorted(path for path in candidates.iterdir() if path.is_dir() and not path.name.startswith("."))
    with step_progress():
        step.run(settings, bundle=bundle, candidates=workers, artifacts=out)


def benchmark(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    bundle: Bundle = WORK / "bundle",
    artifacts: Artifacts = WORK / "artifacts",
    out: Out = WORK / "benchmark",
) -> None:
    """Measure all variants side by side."""
    from leanloop.steps import benchmark as step

    settings = read_settings(params, override)
    with step_progress():
        step.run(settings, bundle=bundle, artifacts=artifacts, benchmark=out)


def select(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    bundle: Bundle = WORK / "bundle",
    analysis: Analysis = WORK / "analysis",
    artifacts: Artifacts = WORK / "artifacts",
    benchmark: Benchmark = WORK / "benchmark",
    out: Out = WORK / "verdict",
) -> None:
    """Choose the winner, or keep the original and say why."""
    from leanloop.steps import select as step

    settings = read_settings(params, override)
    with step_progress():
        step.run(settings, bundle=bundle, analysis=analysis, artifacts=artifacts, benchmark=benchmark, verdict=out)


def deploy(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    bundle: Bundle = WORK / "bundle",
    analysis: Analysis = WORK / "analysis",
    artifacts: Artifacts = WORK / "artifacts",
    benchmark: Benchmark = WORK / "benchmark",
    verdict: Verdict = WORK / "verdict",
    out: Out = WORK / "release",
) -> None:
    """Stage, tune, promote and measure on Triton."""
    from leanloop.steps import deploy as step

    settings = read_settings(params, override)
    with step_progress():
        step.run(
            settings,
            bundle=bundle,
            analysis=analysis,
            artifacts=artifacts,
            benchmark=benchmark,
            verdict=verdict,
            release=out,
        )


def fingerprint(out: Annotated[Path, typer.Option(help="JSON file to write.")] = WORK / "hardware.json") -> None:
    """Write what this machine is: DVC runs the measuring stages again when it changes."""
    from leanloop.core.files import write_json
    from leanloop.core.hardware import fingerprint as read

    write_json(out, read())
