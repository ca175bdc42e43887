"""Whole runs: ``run``, ``reoptimise``, ``compile``, ``predict``, ``releases``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, project_of, read_settings

if TYPE_CHECKING:
    from leanloop.pipelines.launch import Run

PIPELINES_FOLDER = Path("deploy/pipelines")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(reoptimise)
    app.command()(predict)
    app.command()(releases)
    app.command("compile")(compile_pipelines)


def run(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Run the whole line: analyse, optimise, convert, benchmark, select and serve."""
    from leanloop.pipelines import launch
    from leanloop.pipelines.check import check_machine

    settings = check_machine(read_settings(params, override))
    _follow(launch.new_run(settings, project_of(params)), settings.model.name)


def reoptimise(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    aim: Annotated[
        Literal["accuracy", "agreement", "latency"], typer.Option(help="What must get better.")
    ] = "accuracy",
    minutes: Annotated[float, typer.Option(min=0, help="Captured requests so far back count as fresh.")] = 60.0,
) -> None:
    """Repair the served model on captured requests and their labels; it is replaced only by a better one."""
    from leanloop.core.releases import latest_release
    from leanloop.core.workspace import Workspace
    from leanloop.pipelines import launch
    from leanloop.pipelines.check import check_machine

    settings = check_machine(read_settings(params, override))
    release = latest_release(Workspace(settings).store, settings.model.name)
    started = launch.new_reoptimisation(settings, release, since=time.time() - 60 * minutes, aim=aim)
    _follow(started, settings.model.name)


def _follow(started: Run, model: str) -> None:
    from leanloop.core.following import following
    from leanloop.pipelines import launch
    from leanloop.pipelines.summary import run_summary

    console.print(f"[bold]{model}[/]  run {started.folder.name}", highlight=False)
    process = launch.start(started)
    try:
        with following(started.events, console):
            status = process.wait()
    finally:
        launch.stop(process)
    launch.finish(started, status)
    for part in run_summary(started):
        console.print(part)


def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder of the YAML files.", file_okay=False)] = PIPELINES_FOLDER,
) -> None:
    """Compile the pipelines to the YAML that a Kubeflow cluster runs."""
    from kfp.compiler import Compiler

    from leanloop.core.files import write_text
    from leanloop.pipelines.local import PIPELINES

    for name, pipeline in PIPELINES.items():
        file = out / f"leanloop-{name}.yaml"
        # The compiler looks at the file's ending, so it writes into a folder of its own first.
        with tempfile.TemporaryDirectory() as folder:
            Compiler().compile(pipeline, f"{folder}/{file.name}")
            write_text(file, Path(folder, file.name).read_text(encoding="utf-8"))
        console.print(f"Wrote {file}")


def predict(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    protocol: Annotated[Literal["grpc", "http"], typer.Option(help="How to talk to Triton.")] = "grpc",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per request; as many as it takes.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Only the first so many test samples.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Requests at the same time, so that Triton batches them.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the answers to this .npz file.", dir_okay=False)] = None,
) -> None:
    """Ask the served model for the test split, and compare with the winner's artifact run in this process."""
    from leanloop.pipelines.predict import predict_test

    found = predict_test(
        read_settings(params, override),
        protocol=protocol,
        batch_size=batch_size,
        limit=samples,
        clients=clients,
        out=out,
    )
    table = Table(
        title=f"{found.model} version {found.version} by {protocol}, batches of {found.batch_size}",
        title_justify="left",
    )
    table.add_column("samples", justify="right")
    table.add_column(found.metric_name, justify="right")
    table.add_column("in-process", justify="right")
    table.add_column("differ", justify="right")
    table.add_column("largest difference", justify="right")
    served = "-" if found.served_metric is None else f"{found.served_metric:.4f}"
    local = "-" if found.local_metric is None else f"{found.local_metric:.4f}"
    table.add_row(str(found.samples), served, local, str(found.different), f"{found.largest_difference:.2g}")
    console.print(table)
    for tie in found.near_ties:
        console.print(f"  sample {tie.sample}: {tie.served} served, {tie.local} in-process, margin {tie.margin:.2g}")
    if found.different > len(found.near_ties):
        console.print("[red]The served answers are not those of the artifact.")
        sys.exit(1)


def releases(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
) -> None:
    """What was released, newest last."""
    from leanloop.core.releases import all_releases
    from leanloop.core.workspace import Workspace

    table = Table(box=None, pad_edge=False)
    for column in ("created", "model", "version", "recipe", "runtime", "precision", "artifact"):
        table.add_column(column)
    for release in all_releases(Workspace(read_settings(params, override)).store, model):
        recipe = release.recipe.describe() if release.recipe else "the original"
        table.add_row(
            release.created,
            release.model,
            str(release.version),
            recipe,
            release.runtime,
            release.precision,
            release.artifact_id[:12],
        )
    console.print(table if table.row_count else "Nothing was released yet. Run `leanloop run`.")
