"""Beginning with a project: ``init``, ``check``, ``doctor``."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from leanloop.core.errors import StoreError
from leanloop.core.files import write_text
from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, project_of, read_settings

_TEMPLATES = ("params.yaml", "model.py", "data.py")
_MARKS = {"ok": "[green]✓", "lacks": "[red]✗", "note": "[yellow]•"}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    app.command()(check)
    app.command()(doctor)


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new project.", file_okay=False)] = Path(),
) -> None:
    """Write a commented params.yaml, and stubs of a model and its data."""
    taken = [name for name in _TEMPLATES if (folder / name).exists()]
    if taken:
        raise StoreError(
            "Files of these names are there already; nothing was written.",
            where=str(folder.resolve()),
            value=", ".join(taken),
            fix="Name another folder: leanloop init DIR.",
        )
    for name in _TEMPLATES:
        template = files("leanloop.pipelines").joinpath("templates", f"{name}.txt")
        write_text(folder / name, template.read_text(encoding="utf-8"))
        console.print(f"  wrote {folder / name}", highlight=False)
    console.print("Fill them in, then run [bold]leanloop check[/].")


def check(params: Params = DEFAULT_PARAMS, override: Override = None) -> None:
    """Validate settings, model and data in seconds, before anything trains."""
    from leanloop.pipelines.check import check as check_all

    settings = read_settings(params, override)
    with console.status("Checking settings, model and data"):
        manifest = check_all(settings, project_of(params))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("model", f"{manifest.name}, {manifest.kind}, {manifest.weights_bytes:,} bytes")
    for spec in manifest.inputs:
        table.add_row("input", f"{spec.name} {spec.dtype}{list(spec.shape)}")
    table.add_row("outputs", ", ".join(manifest.outputs))
    for name, split in manifest.splits.items():
        table.add_row(name, f"{split.samples:,} samples{'' if split.labelled else ', no labels'}")
    table.add_row("metric", manifest.metric)
    console.print(table, highlight=False)
    console.print("[green]✓[/] All is well. [bold]leanloop run[/] will begin with this.")


def doctor() -> None:
    """Tell what this machine has and lacks, and how to mend it."""
    from leanloop.pipelines.doctor import examine

    findings = examine()
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        table.add_row(_MARKS[finding.state], finding.subject, finding.found, f"[green]{finding.fix}")
    console.print(table, highlight=False)
    lacking = [finding for finding in findings if finding.state == "lacks"]
    if lacking:
        console.print(f"[red]{len(lacking)} thing(s) are missing.")
        sys.exit(1)
    console.print("[green]Everything is there.")
