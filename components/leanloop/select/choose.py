"""The choice: decided on validation, then reported on test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leanloop.bundle import Bundle, Split
from leanloop.core.contracts import Artifacts, Benchmark, Verdict
from leanloop.core.files import inside
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.runtime import answers_of, kept_original_outputs, original_outputs
from leanloop.select.decision import decide
from leanloop.select.gate import Evidence


def choose(
    bundle: Bundle,
    artifacts: Artifacts,
    artifacts_folder: Path,
    benchmark: Benchmark,
    benchmark_folder: Path,
    settings: Settings,
) -> Verdict:
    """Choose on validation, then read ``test`` once, for the original and the winner.

    Args:
        bundle: The original and its data.
        artifacts: Every variant that was converted.
        artifacts_folder: Holds their files.
        benchmark: What was measured of them.
        benchmark_folder: Holds their outputs on validation, ``predictions/<id>.npz``.
        settings: The goal, and the confidence of intervals.

    Raises:
        DataError: The metric needs labels and a split has none.
    """
    evidence = read_evidence(bundle, benchmark, benchmark_folder)
    verdict = decide(benchmark, evidence, settings.goal, settings.benchmark.confidence, artifacts.challenge)
    test = bundle.find_split("test")
    if test is None:
        return verdict
    metric = _test_metric(bundle, test, artifacts, artifacts_folder, verdict.winner, settings)
    return verdict.model_copy(update={"test_metric": metric, "test_samples": len(test)})


def read_evidence(bundle: Bundle, benchmark: Benchmark, folder: Path) -> Evidence:
    """The variants' outputs on validation, as the benchmark kept them."""
    name = bundle.manifest.outputs[0]
    outputs = {}
    for variant in benchmark.variants:
        with np.load(inside(folder, f"predictions/{variant.id}.npz"), allow_pickle=False) as archive:
            outputs[variant.id] = archive[name]
    validation = bundle.split("validation")
    return Evidence(
        metric=bundle.metric,
        truth=bundle.truth(validation, lambda: original_outputs(bundle, validation)),
        outputs=outputs,
        classification=bundle.manifest.task == "classification",
        classes=bundle.manifest.classes,
        recent=bundle.fresh_rows("validation"),
    )


def _test_metric(
    bundle: Bundle, test: Split, artifacts: Artifacts, folder: Path, winner: str | None, settings: Settings
) -> dict[str, float]:
    original = kept_original_outputs(bundle, test, Workspace(settings).store)
    scores = {"original": bundle.score(original, test, original)}
    if winner is not None:
        model = next(artifact.model for artifact in artifacts.artifacts if artifact.id == winner)
        answers = answers_of(model, inside(folder, winner), test, threads=settings.goal.threads, bundle=bundle)
        scores["winner"] = bundle.score(answers, test, original)
    return scores
