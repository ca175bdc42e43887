"""The local Triton: ``serve up``, ``serve run``, ``serve down``, ``serve status``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, read_settings

if TYPE_CHECKING:
    from leanloop.core.settings import Settings
    from leanloop.serving import StackStatus

serve = typer.Typer(no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(serve, name="serve", help="Start, end and look at the local Triton.")


@serve.command()
def up(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Start Triton with every released model, unless it runs."""
    from leanloop.core.workspace import Workspace
    from leanloop.serving import stack

    settings = read_settings(params, override)
    capture_here(settings)
    with console.status("Starting Triton"):
        state = stack.up(settings.serving, Workspace(settings).serving)
    console.print(f"Triton serves at http://{state.http_url} and grpc {state.grpc_url} (process {state.pid}).")


@serve.command()
def run(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Be Triton in the foreground, with every released model, for a supervisor such as `leanloop up` has."""
    from leanloop.core.workspace import Workspace
    from leanloop.serving import stack

    settings = read_settings(params, override)
    stack.run(settings.serving, Workspace(settings).serving)


@serve.command()
def down(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """End the Triton that `serve up` or a run started, and nothing else."""
    from leanloop.core.workspace import Workspace
    from leanloop.serving import stack

    settings = read_settings(params, override)
    with console.status("Ending Triton"):
        stopped = stack.down(Workspace(settings).serving)
    console.print("Triton was ended." if stopped else "No Triton of this workspace was running.")


@serve.command()
def status(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Ask every served version one real inference, and show its traffic so far."""
    from leanloop.core.workspace import Workspace
    from leanloop.serving import stack

    settings = read_settings(params, override)
    found = stack.status(settings.serving, Workspace(settings).serving)
    if found.state is None or not found.live:
        console.print("No Triton of this workspace is running. Start it with [bold]leanloop serve up[/].")
        sys.exit(1)
    console.print(
        f"http {found.state.http_url}   grpc {found.state.grpc_url}   process {found.state.pid}", highlight=False
    )
    console.print(versions_table(found))
    if not all(version.answers for version in found.versions):
        sys.exit(1)


def capture_here(settings: Settings) -> None:
    """Let the models of a workspace that was moved or copied capture into it, and say so."""
    from leanloop.core.workspace import Workspace
    from leanloop.serving import stack

    workspace = Workspace(settings)
    for model, before in stack.capture_here(settings.serving, workspace.serving).items():
        console.print(
            f"The workspace was moved: requests of {model} are captured into {workspace.capture}, not {before}.",
            highlight=False,
            soft_wrap=True,
        )


def versions_table(found: StackStatus) -> Table:
    """Every version that should be served: its answer to one real inference, and its traffic so far."""
    from leanloop.monitoring import read_metrics

    assert found.state is not None, "of a Triton that is live"
    traffic = {(row.model, row.version): row for row in read_metrics(found.state.metrics_url)}
    table = Table(box=None, pad_edge=False)
    for column in ("model", "version", "health", "answered in", "requests", "queue", "compute"):
        table.add_column(column)
    for version in found.versions:
        row = traffic.get((version.model, version.version))
        busy = row is not None and row.successes > 0
        table.add_row(
            version.model,
            str(version.version),
            "[green]answers" if version.answers else f"[red]{version.problem}",
            f"{version.milliseconds:.1f} ms",
            str(row.successes) if row else "0",
            f"{row.queue_ms:.2f} ms" if row and busy else "",
            f"{row.compute_ms:.2f} ms" if row and busy else "",
        )
    return table
