"""The whole stack: ``up``, ``down``, ``status``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, project_of, read_settings
from leanloop.pipelines.cli.serving import capture_here, versions_table

if TYPE_CHECKING:
    from leanloop.monitoring.stack import ProgramStatus
    from leanloop.monitoring.view import LoopView


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Start Triton, Prometheus, Alertmanager and the watch over them, and keep them up."""
    from leanloop.monitoring import stack

    settings = read_settings(params, override)
    if settings.serving.autostart:
        capture_here(settings)
    with console.status("Starting the stack"):
        programs = stack.up(settings, project_of(params))
    console.print(_programs_table(programs))


def down(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """End what `leanloop up` started and the runs that its service started, and nothing else."""
    from leanloop.monitoring import stack
    from leanloop.pipelines.launcher import LocalLauncher

    settings = read_settings(params, override)
    with console.status("Ending the stack"):
        ended = stack.down(settings)
        # They outlive a service that was killed; with the stack they end.
        runs = LocalLauncher(settings, project_of(params)).end_all()
    console.print("The stack was ended." if ended else "No stack of this workspace was running.")
    for run in runs:
        console.print(f"Run {run} was ended, too; `leanloop up` starts it again.", highlight=False)


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
    if served.versions:
        console.print()
        console.print(versions_table(served))
    if any(program.name == "leanloop" and program.answers for program in programs):
        from leanloop.monitoring.service_client import ServiceClient

        console.print()
        client = ServiceClient(settings)
        print_view(client.status(), client.incidents())
    if not all(program.answers for program in programs) or not all(version.answers for version in served.versions):
        sys.exit(1)


def print_view(view: LoopView, incidents: Sequence[Mapping[str, Any]]) -> None:
    """Show what the loop knows.

    Args:
        view: Its models with their open incidents, and what could not be looked at.
        incidents: The newest, newest first, as the service lists them; a model's last one is shown when none is open.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("model", "version", "accuracy", "labelled", "windows", "inputs", "latency", "diagnosis"):
        table.add_column(column)
    for model in view.models:
        live = "unknown" if model.accuracy is None else f"{model.accuracy.value:.1%}"
        usual = "" if model.expected_accuracy is None else f" of {model.expected_accuracy:.1%}"
        table.add_row(
            model.model,
            str(model.version),
            live + usual,
            f"{model.coverage:.0%}",
            str(model.windows),
            model.evidence["inputs"],
            model.evidence["latency"],
            model.diagnosis,
        )
    console.print(table)
    for model in view.models:
        for incident in model.incidents:
            opened = _local(incident.opened)
            console.print(
                f"\n[bold]{model.model}[/]  incident {incident.id}, {incident.state} since {opened:%H:%M:%S}\n"
                f"  {incident.cause}: {incident.action}\n  {escape(incident.note)}"
                + (f"\n  alerts: {', '.join(incident.alerts)}" if incident.alerts else ""),
                highlight=False,
            )
        last = next((one for one in incidents if one["model"] == model.model and one["closed"]), None)
        if last is not None and not model.incidents:
            closed = _local(last["closed"])
            console.print(
                f"\n[bold]{model.model}[/]  last incident {last['id']}, closed {closed:%m-%d %H:%M:%S}\n"
                f"  {last['cause']}: {last['action']}\n  {escape(last['note'])}",
                highlight=False,
            )
    for failure in view.failures:
        console.print(f"\n[red]Look failed:[/] {escape(str(failure))}", highlight=False)
    if view.run:
        console.print(f"\nRun {view.run} is under way.", highlight=False)
    if view.blind:
        console.print(f"\n[red]Blind for latency:[/] {view.blind}", highlight=False)


def _local(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC).astimezone()


def _programs_table(programs: tuple[ProgramStatus, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("program", "state", "pid", "since", "restarts", "address"):
        table.add_column(column, no_wrap=True)
    for program in programs:
        table.add_row(
            program.name,
            "[green]answers" if program.answers else f"[red]silent, {program.state.lower()}",
            str(program.pid or ""),
            f"{program.since.astimezone():%m-%d %H:%M:%S}" if program.since else "",
            str(program.restarts),
            program.address,
        )
    return table
