"""The run report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jinja2

from leanloop.core.contracts import Analysis, Artifacts, Benchmark, BundleManifest, Release, Verdict
from leanloop.core.names import code_version
from leanloop.select import formatting
from leanloop.select.charts import class_chart, latency_chart, pareto_chart
from leanloop.select.decision import KEEP_ORIGINAL
from leanloop.select.view import (
    RUNTIME_NAMES,
    VariantView,
    headline,
    headline_tiles,
    metric_limit,
    objective_of,
    recipe_parameters,
    served_rows,
    variant_views,
    winner_of,
)

_LAYERS_SHOWN = 12


def render_report(
    *,
    manifest: BundleManifest,
    analysis: Analysis | None,
    artifacts: Artifacts,
    benchmark: Benchmark,
    verdict: Verdict,
    release: Release | None,
) -> str:
    """Everything about a run as self-contained HTML: no network, both colour themes, printable.

    Args:
        manifest: What the owner brought.
        analysis: What the analysis found; None leaves its section out.
        artifacts: The variants, the search log, what was left out.
        benchmark: What was measured.
        verdict: The choice and its checks.
        release: What serves; None before a deployment.
    """
    variants = variant_views(benchmark, verdict)
    winner = winner_of(variants)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("leanloop.select"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["words"] = formatting
    return environment.get_template("report.html").render(
        manifest=manifest,
        analysis=analysis,
        artifacts=artifacts,
        benchmark=benchmark,
        verdict=verdict,
        release=release,
        variants=variants,
        winner=winner,
        objective=objective_of(verdict),
        runtimes=RUNTIME_NAMES,
        code_version=code_version(),
        machine={name: value for name, value in benchmark.hardware.items() if name != "tools"},
        versions={"leanloop": code_version(), **benchmark.hardware.get("tools", {})},
        parameters={artifact.id: recipe_parameters(artifact.recipe) for artifact in artifacts.artifacts},
        parity={artifact.id: artifact.parity for artifact in artifacts.artifacts},
        recipe=next(
            (artifact.recipe for artifact in artifacts.artifacts if winner and artifact.id == winner.measured.id), None
        ),
        reason=_reason(verdict),
        headline=headline(benchmark, verdict, winner) if winner else (),
        tiles=headline_tiles(benchmark, verdict, winner) if winner else [],
        charts=_charts(manifest, benchmark, verdict, variants, winner),
        layers=[] if analysis is None else _layer_rows(analysis),
        trials=_trial_summary(artifacts),
        served=[] if release is None else served_rows(release, benchmark),
    )


def _reason(verdict: Verdict) -> str:
    text = verdict.reason.removeprefix(KEEP_ORIGINAL)
    return text[:1].upper() + text[1:] if verdict.winner is None else text


def _charts(
    manifest: BundleManifest,
    benchmark: Benchmark,
    verdict: Verdict,
    variants: list[VariantView],
    winner: VariantView | None,
) -> dict[str, Any]:
    original = benchmark.original.per_class
    classes = None
    if winner is not None and original and winner.measured.per_class:
        names = manifest.classes or tuple(f"class {index}" for index in range(len(original)))
        classes = class_chart(names, original, winner.measured.per_class)
    return {
        "pareto": pareto_chart(
            variants,
            objective_of(verdict),
            benchmark.metric_name,
            metric_limit(verdict),
            higher_is_better=benchmark.higher_is_better,
        ),
        "latency": {batch_size: latency_chart(variants, batch_size) for batch_size in benchmark.batch_sizes},
        "classes": classes,
    }


def _layer_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """The slowest layers, with their share of all measured time and what treating them alone costs."""
    drops = {(row.name, row.treatment): row.drop for row in analysis.sensitivity}
    total = sum(layer.time_ms for layer in analysis.layers) or 1.0
    slowest = sorted(analysis.layers, key=lambda layer: -layer.time_ms)[:_LAYERS_SHOWN]
    return [
        {
            "layer": layer,
            "share": layer.time_ms / total,
            "prune": drops.get((layer.name, "prune_50")),
            "int8": drops.get((layer.name, "int8")),
        }
        for layer in slowest
    ]


def _trial_summary(artifacts: Artifacts) -> dict[str, Any]:
    states = Counter(trial.state for trial in artifacts.trials)
    return {
        "rows": sorted(artifacts.trials, key=lambda trial: trial.trial),
        "states": {state: states[state] for state in ("complete", "pruned", "failed") if states[state]},
        "seconds": sum(trial.seconds for trial in artifacts.trials),
        "longest": max((trial.seconds for trial in artifacts.trials), default=1.0) or 1.0,
    }
