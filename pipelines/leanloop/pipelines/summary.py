"""What `leanloop run` prints at its end: the leaderboard, the release, and how to query it."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from leanloop.core.contracts import Benchmark, Release, Verdict
from leanloop.pipelines.launch import Run, orchestration_share
from leanloop.select import leaderboard, summary_panel


def run_summary(run: Run) -> list[RenderableType]:
    """Everything to print after a run that ended with a release."""
    benchmark, verdict = Benchmark.load(run.step_folder("benchmark")), Verdict.load(run.step_folder("select"))
    release = run.release()
    seconds, share = orchestration_share(run)
    return [
        leaderboard(benchmark, verdict),
        summary_panel(benchmark, verdict, release),
        _served(release),
        Text(f"\nTook {seconds / 60:.1f} min, of which orchestration {share:.1%}."),
        # Never folded: a path is there to be copied.
        Text.assemble("Report  ", (_short(run.report), "cyan"), no_wrap=True, overflow="ignore"),
        Text.assemble("Query   ", ("leanloop predict", "bold cyan"), "   sends the test split to the served model"),
        Text.assemble("Or      ", (f"curl {release.http_url}/v2/models/{release.model}", "cyan"), no_wrap=True),
    ]


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _served(release: Release) -> Table:
    table = Table(title="Served by Triton, closed loop", title_justify="left", box=None, pad_edge=False)
    for column in ("version", "batch", "clients", "p50", "p99", "throughput"):
        table.add_column(column, justify="right")
    for row in sorted(release.served, key=lambda row: (row.batch_size, row.concurrency, row.version)):
        table.add_row(
            f"{row.version}",
            str(row.batch_size),
            str(row.concurrency),
            f"{row.p50_ms:.2f} ms",
            f"{row.p99_ms:.2f} ms",
            f"{row.throughput:,.0f}/s",
        )
    return table
