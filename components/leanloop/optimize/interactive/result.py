"""What `optimize` returns: the best version, the leaderboard, the search log, a plot, and a folder to take along."""

from __future__ import annotations

import html
import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from leanloop.bundle import Arrays, Bundle
from leanloop.core.contracts import Analysis, Artifact, Artifacts, Benchmark, Interval, VariantBenchmark, Verdict
from leanloop.core.errors import DataError, StoreError, UnsupportedError
from leanloop.core.files import atomic_folder, write_text
from leanloop.optimize.apply import CHECKPOINT, rebuild
from leanloop.runtime import Session, open_session

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

PROJECT, BUNDLE, ANALYSIS, CANDIDATES = "project", "bundle", "analysis", "candidates"
ARTIFACTS, BENCHMARK, VERDICT = "artifacts", "benchmark", "verdict"
"""Folders of a call, one per step."""

REPORT = "report.html"


class Best:
    """The version that won, or the original where nothing better keeps the accuracy. Call it with arrays.

    Attributes:
        label: What was done to it.
        folder: Holds its files.
        artifact: Which files, for which runtime, made by which recipe.
        speedup: p50 latency of the original over its own at the goal's batch size, with a bootstrap interval.
        size_share: Its bytes over those of the original's weights file.
        metric: On validation.
        is_original: Whether nothing better was found.
    """

    def __init__(self, bundle: Bundle, artifact: Artifact, folder: Path, measured: VariantBenchmark, run: Path) -> None:
        self.label = measured.label
        self.folder = folder
        self.artifact = artifact
        self.metric = measured.metric
        self.is_original = artifact.baseline
        self._bundle, self._threads, self._run = bundle, measured.threads, run
        benchmark, verdict = Benchmark.load(run / BENCHMARK), Verdict.load(run / VERDICT)
        same = Interval(value=1.0, low=1.0, high=1.0)
        self.speedup = same if self.is_original else verdict.speedup[benchmark.original.id]
        self.size_share = measured.size_bytes / benchmark.original_size_bytes

    @cached_property
    def _session(self) -> Session:
        return open_session(self.artifact.model, self.folder, threads=self._threads, bundle=self._bundle)

    def __call__(self, *inputs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Answer a batch: arrays or tensors in the order of the module's arguments; one array per output.

        Raises:
            DataError: They are not as many as the module takes.
        """
        specs = self._bundle.manifest.inputs
        if len(inputs) != len(specs):
            raise DataError(
                "The model takes other inputs.",
                value=f"{len(inputs)} given",
                fix=f"It takes {', '.join(f'{spec.name} {spec.dtype}{list(spec.shape)}' for spec in specs)}.",
            )
        batch: Arrays = {
            spec.name: np.ascontiguousarray(value, dtype=spec.dtype) for spec, value in zip(specs, inputs, strict=True)
        }
        answers = self._session.run(batch)
        found = tuple(answers[name] for name in self._bundle.manifest.outputs)
        return found[0] if len(found) == 1 else found

    def module(self) -> nn.Module:
        """The PyTorch module behind it: pruned and fine-tuned, before it was exported and quantised.

        Raises:
            UnsupportedError: The recipe did not change the module.
        """
        for candidate in (self._run / CANDIDATES).glob(f"*/{self.artifact.id}/{CHECKPOINT}"):
            return rebuild(candidate.parent, self._bundle)
        raise UnsupportedError(
            "No technique of this recipe changes the PyTorch module.", value=self.label, fix="Use the original's."
        )

    def __repr__(self) -> str:
        return f"<Best {self.label}: {self.speedup.value:.2f}x, {self.size_share:.1%} of the bytes>"


class Result:
    """What a call of `optimize` found; made again from its folder at any time.

    Args:
        folder: Of the call.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._benchmark = Benchmark.load(self.folder / BENCHMARK)
        self._verdict = Verdict.load(self.folder / VERDICT)
        self._artifacts = Artifacts.load(self.folder / ARTIFACTS)

    @property
    def reason(self) -> str:
        """Why the best one won, or why the original stays."""
        return self._verdict.reason

    @property
    def report(self) -> Path:
        """The report of the run, in HTML."""
        return self.folder / VERDICT / REPORT

    @property
    def left_out(self) -> dict[str, str]:
        """What was not tried, and why: techniques, layers that were left alone, what the budget left."""
        return self._artifacts.untried()

    @property
    def test_metric(self) -> dict[str, float]:
        """The metric on the test samples, of the original and the winner, by variant id."""
        return dict(self._verdict.test_metric)

    @cached_property
    def best(self) -> Best:
        """The version that won, or the original."""
        identity = self._verdict.winner or self._benchmark.original.id
        artifact = next(one for one in self._artifacts.artifacts if one.id == identity)
        measured = self._benchmark.variant(identity)
        folder = self.folder / ARTIFACTS / identity
        return Best(Bundle(self.folder / BUNDLE), artifact, folder, measured, self.folder)

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """Every version that was measured, the best on the objective first.

        Columns: ``variant``, ``verdict`` (winner, passed, baseline, or the checks it fails), ``p50_ms``, ``speedup``
        (p50 of the original over its own), ``bytes``, ``size_share``, the metric by its name, ``pareto`` (nothing
        measured is better in everything), ``runtime``, ``precision``, ``peak_memory_bytes``, ``why_not_faster``,
        ``id``.
        """
        import pandas as pd

        benchmark, verdict = self._benchmark, self._verdict
        batch, original = verdict.batch_size, benchmark.original.at(verdict.batch_size).p50_ms.value
        judged = {one.id: one for one in verdict.variants}
        rows = []
        for one in sorted(benchmark.variants, key=lambda one: judged[one.id].objective):
            failed = [check.name for check in judged[one.id].checks if not check.passed]
            state = "winner" if one.id == verdict.winner else "baseline" if one.baseline else "passed"
            p50 = one.at(batch).p50_ms.value
            rows.append(
                {
                    "variant": one.label,
                    "verdict": f"fails {', '.join(failed)}" if failed and state == "passed" else state,
                    "p50_ms": p50,
                    "speedup": original / p50,
                    "bytes": one.size_bytes,
                    "size_share": one.size_bytes / benchmark.original_size_bytes,
                    benchmark.metric_name: one.metric,
                    "pareto": judged[one.id].on_pareto_front,
                    "runtime": one.runtime,
                    "precision": one.precision,
                    "peak_memory_bytes": one.peak_memory_bytes,
                    "why_not_faster": "" if one.execution is None else one.execution.why_not_faster,
                    "id": one.id,
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The search log: what was tried, how far it went, what it cost in seconds, what it bought, and why not.

        ``slack`` is what is left of the goal's accuracy beyond noise, in the metric's units: negative does not hold it.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "trial": row.trial,
                "recipe": row.recipe.describe(),
                "state": row.state,
                "rung": row.rung,
                "p50_ms": row.latency_ms,
                "bytes": row.size_bytes,
                self._benchmark.metric_name: row.metric,
                "slack": row.slack,
                "seconds": row.seconds,
                "reason": row.reason,
            }
            for row in sorted(self._artifacts.trials, key=lambda row: row.trial)
        )

    @property
    def analysis(self) -> Analysis:
        """What the original's layers cost, where it is sensitive, and what was expected to help."""
        return Analysis.load(self.folder / ANALYSIS)

    def pareto_plot(self) -> Figure:
        """Metric over latency of all versions, those on the Pareto front joined; area grows with the bytes."""
        import plotly.graph_objects as go

        board, metric = self.leaderboard, self._benchmark.metric_name
        front = board[board["pareto"]].sort_values("p50_ms")
        figure = go.Figure()
        figure.add_scatter(
            x=front["p50_ms"], y=front[metric], mode="lines", line={"dash": "dot", "color": "#888"}, showlegend=False
        )
        for verdict, rows in board.groupby("verdict", sort=False):
            figure.add_scatter(
                x=rows["p50_ms"],
                y=rows[metric],
                mode="markers",
                name=str(verdict),
                text=rows["variant"],
                customdata=rows[["speedup", "size_share"]],
                marker={"size": 10 + 24 * np.sqrt(rows["size_share"].clip(upper=1.0)), "opacity": 0.8},
                hovertemplate=(
                    "%{text}<br>%{x:.3g} ms, %{customdata[0]:.1f}x<br>%{y:.4f}, %{customdata[1]:.1%} of the bytes"
                ),
            )
        figure.update_layout(
            title=f"Batch {self._verdict.batch_size}: {self._verdict.reason}",
            xaxis={"title": "p50 latency in ms", "type": "log"},
            yaxis={"title": metric},
            template="plotly_white",
        )
        return figure

    def save(self, folder: str | Path) -> Path:
        """Write the best version's files, how they are loaded, the report and the tables into a new folder.

        Returns:
            The folder: the model's files, ``model.json`` (recipe, runtime, file names, figures), ``report.html``,
            ``leaderboard.csv``, ``trials.csv``, and ``checkpoint/`` where the PyTorch module was changed.

        Raises:
            StoreError: The folder is there already, or cannot be written.
        """
        target, best = Path(folder), self.best
        if target.exists():
            raise StoreError("There is something of this name already.", where=str(target), fix="Name a new folder.")
        with atomic_folder(target) as made:
            for file in best.artifact.model.files:
                (made / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(best.folder / file, made / file)
            for checkpoint in (self.folder / CANDIDATES).glob(f"*/{best.artifact.id}/{CHECKPOINT}"):
                shutil.copytree(checkpoint, made / CHECKPOINT, dirs_exist_ok=True)
            document = {
                "label": best.label,
                "model": best.artifact.model.model_dump(mode="json"),
                "recipe": None if best.artifact.recipe is None else best.artifact.recipe.model_dump(mode="json"),
                "metric": {self._benchmark.metric_name: best.metric},
                "test_metric": self._verdict.test_metric,
                "speedup": best.speedup.model_dump(),
                "batch_size": self._verdict.batch_size,
                "size_share": best.size_share,
                "hardware": self._benchmark.hardware,
            }
            write_text(made / "model.json", json.dumps(document, indent=2))
            shutil.copyfile(self.report, made / REPORT)
            self.leaderboard.to_csv(made / "leaderboard.csv", index=False)
            self.trials.to_csv(made / "trials.csv", index=False)
        return target

    def __str__(self) -> str:
        best = self.best
        return (
            f"{best.label}\n{self.reason}\n"
            f"{best.speedup.value:.1f} times as fast at batch {self._verdict.batch_size} "
            f"({best.speedup.low:.1f} to {best.speedup.high:.1f}), {best.size_share:.1%} of the bytes, "
            f"{self._benchmark.metric_name} {best.metric:.4f} "
            f"(the original {self._benchmark.original.metric:.4f})\nreport: {self.report}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        text = html.escape(str(self)).replace("\n", "<br>")
        return f"<p>{text}</p>{self.leaderboard.drop(columns='id').to_html(index=False)}"
