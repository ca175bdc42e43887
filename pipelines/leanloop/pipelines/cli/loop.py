"""The whole stack: ``up``, ``down``, ``status``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, project_of, read_settings
from leanloop.pipelines.cli.serving import versions_table

if TYPE_CHECKING:
    from leanloop.monitoring.stack import ProgramStatus


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Start Triton, Prometheus, Alertmanager and the watch over them, and keep them up."""
    from leanloop.monitoring import stack

    settings = read_settings(params, override)
    with console.status("Starting the stack"):
        programs = stack.up(settings, project_of(params))
    console.print(_programs_table(programs))


def down(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """End what `leanloop up` started, and nothing else."""
    from leanloop.monitoring import stack

    settings = read_settings(params, override)
    with console.status("Ending the stack"):
        ended = stack.down(settings)
    console.print("The stack was ended." if ended else "No stack of this workspace was running.")


def status(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Show every program, and ask every served version one real inference."""
    from leanloop.core.workspace import Workspace
    from leanloop.monitoring import stack
    from leanloop.serving import status as serving_status

    settings = read_settings(params, override)
    programs = stack.programs(settings)
    if not programs:
        console.print("No stack of this workspace is running. Start it with [bold]leanloop up[/].")
        sys.exit(1)
    console.print(_programs_table(programs))
    served = serving_status(settings.serving, Workspace(settings).serving)
    if served.live:
        console.print()
        console.print(versions_table(served))
    if not all(program.answers for program in programs) or not all(version.answers for version in served.versions):
        sys.exit(1)


def _programs_table(programs: tuple[ProgramStatus, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("program", "state", "pid", "since", "restarts", "address"):
        table.add_column(column)
    for program in programs:
        state = program.state.lower()
        table.add_row(
            program.name,
            f"[green]{state}, answers" if program.answers else f"[red]{state}, does not answer",
            str(program.pid or ""),
            f"{program.since.astimezone():%Y-%m-%d %H:%M:%S}" if program.since else "",
            str(program.restarts),
            program.address,
        )
    return table
