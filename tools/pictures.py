"""Make the README's pictures from a finished run, and from what ``leanloop demo loop`` printed.

``.venv/bin/python tools/pictures.py .leanloop/runs/<run> story.log``
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from leanloop.core.errors import SettingsError
from leanloop.pipelines.cli.app import failure_panel
from leanloop.pipelines.launch import Run
from leanloop.pipelines.summary import run_summary

PICTURES = Path(__file__).parents[1] / "docs/pictures"


def console(width: int = 90) -> Console:
    """A console that keeps what is printed."""
    return Console(record=True, width=width, force_terminal=True, file=io.StringIO())


def save(recorded: Console, name: str, title: str) -> None:
    """Write what was printed as a picture of a terminal."""
    # Rich would have the reader's browser fetch a font.
    drawing = re.sub(r"\s*@font-face\s*\{.*?\}\n", "\n", recorded.export_svg(title=title), flags=re.DOTALL)
    drawing = drawing.replace("Fira Code, monospace", "Fira Code, DejaVu Sans Mono, Consolas, Menlo, monospace")
    (PICTURES / name).write_text(drawing, encoding="utf-8")


def main(folder: Path, story: Path) -> None:
    """All pictures.

    Args:
        folder: Of a run.
        story: What the demo of the loop printed.
    """
    run = Run(folder.resolve())
    PICTURES.mkdir(parents=True, exist_ok=True)
    summary = console()
    for part in run_summary(run):
        summary.print(part)
    save(summary, "summary.svg", "make demo")
    failure = console()
    failure.print(
        failure_panel(
            SettingsError(
                "Unknown settings key 'goal.batchsize'.",
                where="params.yaml",
                value=32,
                fix="Did you mean 'batch_size'? Known keys here: batch_size, concurrency, minimise, ...",
            )
        )
    )
    save(failure, "failure.svg", "leanloop check")
    photograph(run.report, PICTURES / "report.png")
    loop, lines = console(112), story.read_text(encoding="utf-8").splitlines()
    first, last = (next(i for i, line in enumerate(lines) if part in line) for part in ("quiet traffic", "stays up"))
    for line in lines[first : last + 1]:
        loop.print(Text(line.rstrip()))
    save(loop, "loop.svg", "make demo-loop")


def photograph(page: Path, picture: Path) -> None:
    """A picture of the top of a page, by Chromium."""
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("Chromium is needed for the report's picture: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                f"--user-data-dir={profile}",
                "--window-size=1200,1500",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
