"""Step 5: the winner, or an honest "nothing better"."""

from __future__ import annotations

import csv
from pathlib import Path

from leanloop.core.contracts import Analysis, Artifacts, Benchmark, Verdict
from leanloop.core.errors import RefusedError
from leanloop.core.events import emit, step_events
from leanloop.core.files import atomic_file, atomic_folder, write_text
from leanloop.core.settings import Settings


def run(
    settings: Settings,
    *,
    bundle: Path,
    analysis: Path,
    artifacts: Path,
    benchmark: Path,
    verdict: Path,
) -> None:
    """Pareto front, constraints, gate, and one look at the test split.

    Args:
        settings: The run's settings.
        bundle: Folder of `leanloop.steps.bundle`.
        analysis: Folder of `leanloop.steps.analyze`, for the report.
        artifacts: Folder of `leanloop.steps.convert`.
        benchmark: Folder of `leanloop.steps.benchmark`.
        verdict: Folder to write (`Verdict`, ``report.html``, ``pareto.csv``).

    Raises:
        RefusedError: In a re-optimisation nothing is better than what serves; the verdict is written all the same.
    """
    with step_events("select"):
        from leanloop.bundle import Bundle
        from leanloop.select import choose, render_report

        opened, found, measured = Bundle(bundle), Artifacts.load(artifacts), Benchmark.load(benchmark)
        decision = choose(opened, found, artifacts, measured, benchmark, settings)
        report = render_report(
            manifest=opened.manifest,
            analysis=Analysis.load(analysis),
            artifacts=found,
            benchmark=measured,
            verdict=decision,
            release=None,
        )
        with atomic_folder(verdict) as folder:
            decision.save(folder)
            write_text(folder / "report.html", report)
            _write_pareto(folder / "pareto.csv", measured, decision)
        emit("selected", winner=decision.winner, reason=decision.reason)
        if found.challenge is not None and decision.winner is None:
            raise RefusedError(
                "No challenger is better than what serves.",
                where=f"aim: {found.challenge.aim}",
                value=decision.reason,
                fix=f"What serves stays. The report: {verdict / 'report.html'}.",
            )


def _write_pareto(path: Path, benchmark: Benchmark, verdict: Verdict) -> None:
    front = {variant.id: variant for variant in verdict.variants}
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["variant", "label", "objective", "metric", "size_bytes", "on_pareto_front", "feasible"])
        for variant in benchmark.variants:
            judged = front[variant.id]
            writer.writerow(
                [
                    variant.id,
                    variant.label,
                    judged.objective,
                    variant.metric,
                    variant.size_bytes,
                    judged.on_pareto_front,
                    judged.feasible,
                ]
            )
