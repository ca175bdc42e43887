"""What one tells the loop: ``monitor``, ``label``, ``trigger``, ``watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, project_of, read_settings


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(label)
    app.command()(trigger)
    app.command()(watch)
    app.command()(monitor)


def label(
    source: Annotated[Path, typer.Option("--from", help="A .parquet or .csv file.", exists=True, dir_okay=False)],
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
) -> None:
    """Tell what was right: columns request_id, label, and sample for requests of several samples."""
    from leanloop.monitoring.service_client import ServiceClient, read_labels

    settings = read_settings(params, override)
    added = ServiceClient(settings).add_labels(settings.model.name, read_labels(source))
    console.print(f"{added.new} new, {added.repeated} known already, {added.conflicting} contradict an earlier one.")


def trigger(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    kind: Annotated[
        Literal["optimise", "re-tune", "re-optimise", "fine-tune and re-optimise"], typer.Option(help="What to do.")
    ] = "re-optimise",
    reason: Annotated[str, typer.Option(help="Kept with the run.")] = "asked for by hand",
    hours: Annotated[float | None, typer.Option(min=0, help="Take live records of so long; all that are kept.")] = None,
) -> None:
    """Ask the loop for a run on the served model; it starts at once."""
    import time

    from leanloop.monitoring.service_client import ServiceClient

    settings = read_settings(params, override)
    since = None if hours is None else time.time() - hours * 3600
    run = ServiceClient(settings).start_run(settings.model.name, kind, reason, since)
    console.print(f"Run {run} was asked for. `leanloop status` shows how it stands.", highlight=False)


def watch(
    folder: Annotated[Path, typer.Argument(help="Projects land here, each a folder with params.yaml.", exists=True)],
    seconds: Annotated[float, typer.Option(min=0.1, help="Between two looks.")] = 5.0,
) -> None:
    """Run every project that lands in a folder, and again when it changes."""
    from leanloop.pipelines.inbox import Arrival, Inbox

    def tell(project: Path, arrival: Arrival | None) -> None:
        if arrival is None:
            console.print(f"{project.name}  has come, and is run", highlight=False)
        elif arrival.version is None:
            console.print(f"{project.name}  [red]failed[/]: {arrival.failure}", highlight=False)
        else:
            console.print(f"{project.name}  [green]version {arrival.version} serves[/], run {arrival.run}")

    console.print(f"Watching {folder}. Interrupt to end.")
    Inbox(folder).watch(tell, seconds=seconds)


def monitor(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    project: Annotated[
        Path | None, typer.Option(help="Where relative paths start from; else the settings file's folder.")
    ] = None,
) -> None:
    """Be leanloop's service in the foreground, for a supervisor such as `leanloop up` has."""
    from leanloop.pipelines.service import serve

    serve(read_settings(params, override), project or project_of(params))
