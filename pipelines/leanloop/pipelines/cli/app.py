"""The ``leanloop`` command: its groups, and how failures are told.

Nothing heavy is imported before a command needs it: ``leanloop --help`` answers in a fraction of a second.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from leanloop.core.errors import LeanloopError
from leanloop.pipelines.cli import demo, live, loop, project, rollout, runs, serving, steps

app = typer.Typer(
    name="leanloop",
    help="Make a trained model small and fast, serve it on Triton, and keep it that way.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
project.add_to(app)
runs.add_to(app)
steps.add_to(app)
serving.add_to(app)
rollout.add_to(app)
loop.add_to(app)
live.add_to(app)
demo.add_to(app)


def main() -> None:
    """Run the command line; a failure is one panel and exit status 1, an interrupt is 130."""
    try:
        app()
    except LeanloopError as error:
        Console(stderr=True).print(failure_panel(error))
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Finished trials are kept; run again to go on.")
        sys.exit(130)


def failure_panel(error: LeanloopError) -> Panel:
    """What went wrong, where, the value, and what to do."""
    text = Text(error.what, style="bold")
    for label, content in (("where", error.where), ("value", error.value), ("to do", error.fix)):
        if content not in ("", None):
            text.append(f"\n{label}  ", style="dim")
            text.append(str(content), style="green" if label == "to do" else "")
    return Panel(text, title=type(error).__name__, title_align="left", border_style="red", expand=False)
