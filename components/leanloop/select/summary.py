"""What the terminal shows at the end of a run: the leaderboard and the verdict."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from leanloop.core.contracts import Benchmark, Release, Verdict
from leanloop.select import formatting
from leanloop.select.decision import KEEP_ORIGINAL
from leanloop.select.view import State, headline, headline_tiles, variant_views, winner_of

_STYLES: dict[State, str] = {"winner": "bold green", "baseline": "yellow", "passed": "", "refused": "dim"}


def leaderboard(benchmark: Benchmark, verdict: Verdict) -> Table:
    """All variants against the original, the best on the objective first."""
    table = Table(
        title=f"Against the original, batch {verdict.batch_size}, {benchmark.threads} thread(s)",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    # Wide enough for the figures and narrow enough for a terminal of 80 columns: only the name may be folded.
    table.add_column("variant", overflow="fold", min_width=20)
    for name in ("p50", "faster", "bytes", benchmark.metric_name):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for view in variant_views(benchmark, verdict):
        table.add_row(
            escape(formatting.variant_name(view.measured)),
            formatting.milliseconds(view.latency.p50_ms.value),
            formatting.times(view.speedup),
            formatting.percent(view.size_share),
            formatting.metric(benchmark.metric_name, view.measured.metric),
            view.state_text,
            style=_STYLES[view.state],
        )
    return table


def summary_panel(benchmark: Benchmark, verdict: Verdict, release: Release | None = None) -> Panel:
    """The verdict in a few lines; with a release, where it answers."""
    views = variant_views(benchmark, verdict)
    winner = winner_of(views)
    text = Text()
    if winner is None:
        text.append("The original stays.\n", style="bold yellow")
        text.append(verdict.reason.removeprefix(KEEP_ORIGINAL))
    else:
        won, besides = headline(benchmark, verdict, winner)
        text.append(won, style="bold green")
        text.append(f" {besides}\n{formatting.variant_name(winner.measured)}\n", style="bold")
        for tile in headline_tiles(benchmark, verdict, winner):
            text.append(f"\n{tile.value:>9}  ", style="bold")
            text.append(f"{tile.label} ")
            text.append(f"({tile.note})", style="dim")
    if release is not None:
        text.append(f"\n\nTriton serves version {release.version} of {release.model}: ")
        text.append(f"HTTP {release.http_url}, gRPC {release.grpc_url}", style="cyan")
    return Panel(text, title="leanloop", border_style="yellow" if winner is None else "green", padding=(1, 2))
