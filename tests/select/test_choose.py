"""Choosing among real models: the original of a small project, and a copy of it as a candidate."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from leanloop.bundle import Bundle, pack
from leanloop.core.contracts import (
    Artifact,
    Artifacts,
    Benchmark,
    Interval,
    LatencyMeasurement,
    ModelFiles,
    Parity,
    VariantBenchmark,
)
from leanloop.core.settings import parse_settings
from leanloop.core.workspace import with_absolute_paths
from leanloop.runtime import open_session, original_outputs, predict
from leanloop.select import choose, read_evidence

LATENCIES = {"original-pytorch-fp32": 3.0, "candidate": 0.5}
PARITY = Parity(samples=8, batch_sizes=(1,), max_abs_error=0, cosine=1, top1_agreement=1, passed=True, limits={})


@pytest.fixture
def packed(project, tmp_path):
    """Opens a bundle of the project, and a candidate that is a copy of its original."""

    def make(**document):
        settings = with_absolute_paths(parse_settings({**project.document, **document}, source="test"), tmp_path)
        pack(settings, project.folder, tmp_path / "bundle")
        bundle = Bundle(tmp_path / "bundle")
        folder = tmp_path / "artifacts"
        artifacts = []
        for name in LATENCIES:
            (folder / name).mkdir(parents=True)
            weights = shutil.copy(bundle.weights, folder / name)
            files = ModelFiles(
                runtime="pytorch",
                precision="fp32",
                main=bundle.manifest.weights,
                files=(bundle.manifest.weights,),
                size_bytes=Path(weights).stat().st_size,
                hints={"memory_format": "auto"},
            )
            baseline = name.startswith("original")
            artifacts.append(Artifact(id=name, baseline=baseline, recipe=None, model=files, parity=PARITY))
        listed = Artifacts(bundle_digest="b", artifacts=tuple(artifacts), rejected={}, left_out={}, trials=())
        return settings, bundle, listed, folder

    return make


def measured(bundle, artifacts, folder, destination) -> Benchmark:
    """Real predictions; latencies as constructed, so that no clock decides the test."""
    (destination / "predictions").mkdir(parents=True)
    validation = bundle.split("validation")
    reference = original_outputs(bundle, validation)
    variants = []
    for artifact in artifacts.artifacts:
        session = open_session(artifact.model, folder / artifact.id, threads=1, bundle=bundle)
        outputs = predict(session, validation)
        session.close()
        np.savez(destination / "predictions" / f"{artifact.id}.npz", **outputs)
        p50 = LATENCIES[artifact.id]
        around = Interval(value=p50, low=p50, high=p50)
        score = bundle.score(outputs, validation, reference)
        variants.append(
            VariantBenchmark(
                id=artifact.id,
                label=artifact.id,
                baseline=artifact.baseline,
                runtime=artifact.model.runtime,
                precision="fp32",
                threads=1,
                latency=(
                    LatencyMeasurement(
                        batch_size=1,
                        p50_ms=around,
                        p99_ms=around,
                        throughput=Interval(value=1 / p50, low=1 / p50, high=1 / p50),
                        runs=10,
                        block_medians_ms=(p50,) * 8,
                    ),
                ),
                peak_memory_bytes=1_000_000,
                size_bytes=artifact.model.size_bytes,
                metric=score,
                metric_interval=Interval(value=score, low=score, high=score),
                per_class=(),
            )
        )
    return Benchmark(
        bundle_digest="b",
        metric_name=bundle.metric.name,
        higher_is_better=True,
        batch_sizes=(1,),
        threads=1,
        variants=tuple(variants),
        original_size_bytes=bundle.manifest.weights_bytes,
        hardware={},
        hardware_id="h",
        notes=(),
    )


def test_test_is_read_once_for_original_and_winner(packed, tmp_path, monkeypatch) -> None:
    settings, bundle, artifacts, folder = packed()
    benchmark = measured(bundle, artifacts, folder, tmp_path / "benchmark")
    asked = []
    find_split = bundle.find_split
    monkeypatch.setattr(bundle, "find_split", lambda name: asked.append(name) or find_split(name))
    verdict = choose(bundle, artifacts, folder, benchmark, tmp_path / "benchmark", settings)
    assert verdict.winner == "candidate"
    assert asked.count("test") == 1
    assert verdict.test_samples == 64
    test = bundle.split("test")
    assert verdict.test_metric["original"] == bundle.score(original_outputs(bundle, test), test)
    assert verdict.test_metric["winner"] == pytest.approx(verdict.test_metric["original"], abs=1 / 64)
    assert verdict.speedup["original-pytorch-fp32"].value == pytest.approx(6)


def test_without_labels_the_original_is_what_counts(packed, tmp_path) -> None:
    settings, bundle, artifacts, folder = packed(metric="agreement")
    benchmark = measured(bundle, artifacts, folder, tmp_path / "benchmark")
    evidence = read_evidence(bundle, benchmark, tmp_path / "benchmark")
    assert np.array_equal(evidence.labels, original_outputs(bundle, bundle.split("validation"))["logits"].argmax(1))
    verdict = choose(bundle, artifacts, folder, benchmark, tmp_path / "benchmark", settings)
    assert verdict.winner == "candidate"
    assert verdict.test_metric["original"] == 1.0
