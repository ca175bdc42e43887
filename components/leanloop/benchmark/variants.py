"""The benchmark step's body: every variant, measured beside every other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from leanloop.benchmark.accuracy import per_class_accuracy, targets_of
from leanloop.benchmark.execution import execution
from leanloop.benchmark.latency import batch_of, compare_latency
from leanloop.benchmark.memory import MEMORY_IMPORTS, peak_memory
from leanloop.benchmark.statistics import metric_interval
from leanloop.bundle import Arrays, Bundle
from leanloop.core.child import Child
from leanloop.core.contracts import Artifact, Artifacts, Benchmark, LatencyMeasurement, VariantBenchmark
from leanloop.core.events import progress
from leanloop.core.hardware import fingerprint, hardware_id, usable_cores
from leanloop.core.settings import Settings
from leanloop.runtime import answers_of, open_session, original_outputs


def benchmark_variants(
    bundle: Bundle, artifacts: Artifacts, folder: Path, settings: Settings, destination: Path
) -> Benchmark:
    """Measure all variants: latency, memory, size, and the metric on validation.

    A challenge is decided at the goal's batch size, beside a live server: other sizes are measured in a plain run only.

    Args:
        bundle: The owner's bundle.
        artifacts: The variants; each one's files are in ``folder/<id>/``.
        folder: The artifacts' folder.
        settings: Threads, batch sizes, blocks, confidence.
        destination: Where ``benchmark.json`` and ``predictions/<id>.npz`` are written.
    """
    load = os.getloadavg()[0]
    sizes = settings.measured_batch_sizes if artifacts.challenge is None else (settings.goal.batch_size,)
    with Child(preload=MEMORY_IMPORTS) as child:
        predictions = _predict_all(bundle, artifacts, folder, settings, destination / "predictions")
        latency = _measure_latency(bundle, artifacts, folder, settings, sizes)
        progress(0, 1, "measuring memory")
        memory = peak_memory(
            {artifact.id: artifact.model for artifact in artifacts.artifacts},
            folder,
            bundle=bundle,
            threads=settings.goal.threads,
            batch_size=settings.goal.batch_size,
            child=child,
        )
    validation = bundle.split("validation")
    reference = None if bundle.metric.needs_labels else original_outputs(bundle, validation)
    targets = targets_of(bundle, validation, reference)
    labels = validation.targets if bundle.manifest.task == "classification" else None
    batch = batch_of(bundle.samples, settings.goal.batch_size)
    variants = []
    for number, artifact in enumerate(artifacts.artifacts):
        progress(number, len(artifacts.artifacts), f"looking into {_label(artifact, artifacts)}")
        first = predictions[artifact.id][bundle.manifest.outputs[0]]
        interval = metric_interval(bundle.metric, first, targets, settings.benchmark.confidence, settings.optimize.seed)
        variants.append(
            VariantBenchmark(
                id=artifact.id,
                label=_label(artifact, artifacts),
                baseline=artifact.baseline,
                runtime=artifact.model.runtime,
                precision=artifact.model.precision,
                threads=settings.goal.threads,
                latency=tuple(latency[artifact.id]),
                peak_memory_bytes=memory[artifact.id],
                size_bytes=artifact.model.size_bytes,
                metric=interval.value,
                metric_interval=interval,
                per_class=() if labels is None else per_class_accuracy(first, labels),
                execution=execution(
                    artifact.model,
                    folder / artifact.id,
                    batch,
                    threads=settings.goal.threads,
                    latency_ms=_at(latency[artifact.id], settings.goal.batch_size),
                ),
            )
        )
    benchmark = Benchmark(
        bundle_digest=bundle.manifest.digest,
        metric_name=bundle.metric.name,
        higher_is_better=bundle.metric.higher_is_better,
        batch_sizes=sizes,
        threads=settings.goal.threads,
        variants=tuple(variants),
        original_size_bytes=bundle.manifest.weights_bytes,
        hardware=fingerprint(),
        hardware_id=hardware_id(),
        notes=(f"load average before: {load:.1f} on {usable_cores()} cores",),
    )
    benchmark.save(destination)
    return benchmark


def _predict_all(
    bundle: Bundle, artifacts: Artifacts, folder: Path, settings: Settings, destination: Path
) -> dict[str, Arrays]:
    destination.mkdir(parents=True)
    validation, found = bundle.split("validation"), {}
    for number, artifact in enumerate(artifacts.artifacts):
        progress(number, len(artifacts.artifacts), f"predicting with {_label(artifact, artifacts)}")
        outputs = answers_of(
            artifact.model,
            folder / artifact.id,
            validation,
            threads=usable_cores(),
            bundle=bundle,
            outputs=bundle.manifest.outputs,
        )
        np.savez(destination / f"{artifact.id}.npz", allow_pickle=False, **outputs)
        found[artifact.id] = outputs
    return found


def _measure_latency(
    bundle: Bundle, artifacts: Artifacts, folder: Path, settings: Settings, sizes: Sequence[int]
) -> dict[str, list[LatencyMeasurement]]:
    with ExitStack() as stack:
        sessions = {}
        for artifact in artifacts.artifacts:
            session = open_session(artifact.model, folder / artifact.id, threads=settings.goal.threads, bundle=bundle)
            stack.callback(session.close)
            sessions[artifact.id] = session
        return compare_latency(sessions, bundle.samples, settings.benchmark, sizes, seed=settings.optimize.seed)


def _at(measured: Sequence[LatencyMeasurement], batch_size: int) -> float:
    return next(one.p50_ms.value for one in measured if one.batch_size == batch_size)


def _label(artifact: Artifact, artifacts: Artifacts) -> str:
    if artifact.recipe is None:
        label = f"original @ {artifact.model.runtime} {artifact.model.precision}"
    else:
        label = artifact.recipe.describe()
    serves = artifacts.challenge is not None and artifact.id == artifacts.challenge.champion
    return f"champion: {label}" if serves else label
