"""The demonstration: ``demo traffic``, ``demo loop``."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer

from leanloop.pipelines.cli.common import DEFAULT_PARAMS, Override, Params, console, project_of, read_settings

demo = typer.Typer(no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(demo, name="demo", help="Show the loop on traffic of its own.")


@demo.callback()
def group() -> None:
    """Show the loop on traffic of its own."""


@demo.command()
def traffic(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    shift: Annotated[
        Literal["none", "brightness", "rotation", "noise", "blur", "class-mix"], typer.Option(help="What changes.")
    ] = "none",
    severity: Annotated[int, typer.Option(min=1, max=5, help="How much.")] = 3,
    rps: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = 50.0,
    label_delay: Annotated[
        float | None, typer.Option(min=0, help="Seconds until the labels are told; none are told without it.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many to send.")] = 1_500,
    seed: Annotated[int, typer.Option(help="Of order and noise.")] = 0,
) -> None:
    """Send real test samples to the served model, shifted if wanted."""
    from leanloop.pipelines.demo.traffic import Traffic, read_samples

    settings = read_settings(params, override)
    flow = Traffic(settings, read_samples(settings), rate=rps, label_delay=label_delay, seed=seed)
    started, left = time.monotonic(), requests
    while left:
        count = min(left, max(1, round(rps * 10)))
        sent = flow.send(shift, severity, count=count)
        left -= count
        versions = ", ".join(f"version {version}" for version in sorted(sent.versions))
        console.print(
            f"{time.monotonic() - started:6.0f} s  {sent.requests} answered by {versions}, {sent.failed} failed, "
            f"accuracy {sent.accuracy:.1%}, p99 {sent.p99_ms:.0f} ms, {sent.labels} labels told",
            highlight=False,
        )
    flow.tell_all()


@demo.command()
def loop(
    params: Params = DEFAULT_PARAMS,
    override: Override = None,
    shift: Annotated[
        Literal["brightness", "rotation", "noise", "blur", "class-mix"], typer.Option(help="What changes.")
    ] = "rotation",
    severity: Annotated[int, typer.Option(min=1, max=5, help="How much.")] = 4,
    rps: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = 40.0,
    label_delay: Annotated[float, typer.Option(min=0, help="Seconds until the labels are told.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of order and noise.")] = 0,
) -> None:
    """Change the world under the served model, and watch the loop notice, understand and repair it."""
    from rich.table import Table

    from leanloop.monitoring import stack
    from leanloop.pipelines.demo.story import tell_story
    from leanloop.pipelines.demo.traffic import read_samples

    settings = read_settings(params, override)
    stack.up(settings, project_of(params))
    story = tell_story(
        settings,
        read_samples(settings),
        lambda seconds, text: console.print(f"{seconds:6.0f} s  {text}", highlight=False, soft_wrap=True),
        shift=shift,
        severity=severity,
        rate=rps,
        label_delay=label_delay,
        seed=seed,
    )
    table = Table(box=None, pad_edge=False)
    for column in ("", "requests", "failed", "accuracy", "p99"):
        table.add_column(column, justify="left" if not column else "right")
    for chapter in story.chapters:
        table.add_row(
            chapter.name,
            str(chapter.sent.requests),
            str(chapter.sent.failed),
            f"{chapter.sent.accuracy:.1%}",
            f"{chapter.sent.p99_ms:.1f} ms",
        )
    console.print(table)
    console.print(
        f"Incident {story.incident}, run {story.run}: version {story.version_before} to {story.version_after} in "
        f"{story.seconds / 60:.1f} min; {story.won_back:.0%} of the loss was won back. The stack stays up.",
        highlight=False,
        soft_wrap=True,
    )
