"""Which version serves: ``history``, ``rollback``, ``promote``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, read_settings

if TYPE_CHECKING:
    from leanloop.core.settings import Settings
    from leanloop.serving import Journal, ModelRepository, TritonClient

Model = Annotated[str | None, typer.Option(help="Another model than that of the settings.")]
Reason = Annotated[str, typer.Option(help="Written into the journal.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(history)
    app.command()(rollback)
    app.command()(promote)


def history(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
) -> None:
    """All rollouts, the newest last: what became of them, and why."""
    from leanloop.core.workspace import Workspace
    from leanloop.serving import Journal

    journal = Journal(Workspace(read_settings(params, override)).serving)
    table = Table(box=None, pad_edge=False)
    for column in ("model", "rollout", "version", "artifact", "state", "since", "why"):
        table.add_column(column)
    for name in journal.models() if model is None else (model,):
        for rollout in journal.history(name):
            table.add_row(
                name,
                str(rollout.number),
                "" if rollout.version is None else str(rollout.version),
                rollout.artifact_id[:12],
                rollout.state.replace("_", " "),
                rollout.at.isoformat(timespec="seconds"),
                rollout.reason,
            )
    console.print(table if table.row_count else "Nothing was rolled out yet. Run `leanloop run`.")


def rollback(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    to: Annotated[int | None, typer.Option(min=1, help="Version; the one that served before.")] = None,
    reason: Reason = "by hand",
    model: Model = None,
) -> None:
    """Let an earlier version answer again; one that is still loaded does so at once."""
    from leanloop.serving import roll_back

    settings = read_settings(params, override)
    with _running(settings) as (client, repository, journal):
        rollout = roll_back(client, repository, journal, model or settings.model.name, reason, to=to)
    assert rollout.back is not None
    console.print(
        f"Version {max(rollout.back.versions)} of {rollout.model} serves instead of {rollout.version}: "
        f"it took {rollout.rollback_ms:.0f} ms."
    )


def promote(
    version: Annotated[int, typer.Argument(min=1, help="A version that was deployed once.")],
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    reason: Reason = "by hand",
    model: Model = None,
) -> None:
    """Let a version serve that is on the disk, or accept the one that serves on trial."""
    from leanloop.serving import promote_version

    settings = read_settings(params, override)
    with _running(settings) as (client, repository, journal), console.status(f"Promoting version {version}"):
        name = model or settings.model.name
        rollout = promote_version(client, repository, journal, settings.serving, name, version, reason)
    console.print(f"Version {rollout.version} of {rollout.model} serves.")


@contextmanager
def _running(settings: Settings) -> Iterator[tuple[TritonClient, ModelRepository, Journal]]:
    from leanloop.core.workspace import Workspace
    from leanloop.serving import Journal, recover, stack

    folder = Workspace(settings).serving
    journal, repository = Journal(folder), stack.repository(settings.serving, folder)
    with stack.connect(settings.serving, folder) as client:
        for mended in recover(client, repository, journal):
            console.print(f"{mended.rollout}: {mended.did}", highlight=False)
        yield client, repository, journal
