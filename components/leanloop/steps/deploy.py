"""Step 6: serve the winner on Triton, beside the original that it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leanloop.core.contracts import (
    Analysis,
    Artifact,
    Artifacts,
    Benchmark,
    Release,
    ServedMeasurement,
    Verdict,
)
from leanloop.core.events import emit, progress, step_events
from leanloop.core.files import atomic_folder, write_json, write_text
from leanloop.core.hardware import hardware_id
from leanloop.core.names import code_version
from leanloop.core.releases import ORIGINAL, release_key, settings_key
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.steps.points import keep_artifact, keep_points
from leanloop.steps.rehearsal import STAGES

if TYPE_CHECKING:
    from leanloop.bundle import Bundle
    from leanloop.serving import CaptureChoice, TritonClient

_LEAST_BLOCK_SECONDS = 0.2
"""A served request takes milliseconds even of a tiny model: shorter blocks would hold too few."""


def run(
    settings: Settings,
    *,
    bundle: Path,
    analysis: Path,
    artifacts: Path,
    benchmark: Path,
    verdict: Path,
    release: Path,
    captured: Path | None = None,
    incident: str | None = None,
) -> None:
    """Stage in a scratch Triton, shadow, tune, promote in the running one, measure what it serves.

    Without a winner the original itself is served. Each stage is written to the journal of rollouts. With capture on,
    the new version stays in its bake until the monitor accepts it; otherwise nobody watches, and it counts as accepted.

    Args:
        settings: The run's settings; ``serving`` names the Triton and its model repository.
        bundle: Folder of `leanloop.steps.bundle`.
        analysis: Folder of `leanloop.steps.analyze`, for the report.
        artifacts: Folder of `leanloop.steps.convert`.
        benchmark: Folder of `leanloop.steps.benchmark`, for the report.
        verdict: Folder of `leanloop.steps.select`.
        release: Folder to write (`Release`, ``report.html``, ``metrics.json``).
        captured: ``.npz`` of captured requests, ``inputs/<name>`` with one request per row. The one that serves and
            the new one answer them side by side first. None: there is no shadow.
        incident: Which one led to this rollout.

    Raises:
        ServingError: What served before serves on.
    """
    with step_events("deploy"):
        from leanloop.bundle import Bundle
        from leanloop.select import render_report
        from leanloop.serving import Journal, promote, recover, stack
        from leanloop.steps.baseline import keep_baselines
        from leanloop.steps.rehearsal import package, rehearse, served_spec

        opened, found = Bundle(bundle), Artifacts.load(artifacts)
        decision = Verdict.load(verdict)
        chosen = [_artifact(found, ORIGINAL)]
        if decision.winner is not None:
            chosen.append(_artifact(found, decision.winner))
        packages = [package(opened, artifact, artifacts, settings) for artifact in chosen]
        spec = served_spec(opened, packages[0])
        folder = Workspace(settings).serving
        models, journal = stack.repository(settings.serving, folder), Journal(folder)
        if journal.interrupted(spec.name):
            with _connected(settings) as client:
                recover(client, models, journal)

        with journal.begin(spec.name, chosen[-1].id, incident=incident) as rollout:
            rollout, choice = rehearse(settings, opened, models, journal, rollout, spec, packages, captured)
            progress(3, STAGES, "promoting in the running Triton")
            capture = _capture(settings)
            if capture is not None:
                # Before it serves: its first window is judged, too.
                keep_baselines(settings, opened, chosen[0], chosen[-1], artifacts)
            with _connected(settings) as client:
                bake = None if capture is None else bake_time(settings)
                promotion = promote(client, models, journal, rollout, spec, packages, choice, capture, bake=bake)
                progress(4, STAGES, "measuring what is served")
                served = _measure(
                    client, opened, settings, tuple(sorted({1, promotion.version})), live=captured is not None
                )

        champion = chosen[-1]
        record = Release(
            model=opened.manifest.name,
            version=promotion.version,
            artifact_id=champion.id,
            artifact_digest=models.digest(opened.manifest.name, promotion.version),
            bundle_digest=opened.manifest.digest,
            recipe=champion.recipe,
            runtime=champion.model.runtime,
            precision=champion.model.precision,
            versions={str(version): artifact for version, artifact in promotion.versions.items()},
            choice=choice,
            served=served,
            golden_queries=len(packages[-1].golden),
            http_url=settings.serving.http_url,
            grpc_url=settings.serving.grpc_url,
            hardware_id=hardware_id(),
            code_version=code_version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            note=decision.reason,
        )
        measured = Benchmark.load(benchmark)
        report = render_report(
            manifest=opened.manifest,
            analysis=Analysis.load(analysis),
            artifacts=found,
            benchmark=measured,
            verdict=decision,
            release=record,
        )
        with atomic_folder(release) as output:
            record.save(output)
            write_text(output / "report.html", report)
            write_json(output / "metrics.json", _metrics(record, decision, measured))
        journal.name_release(promotion.rollout, _keep(settings, record, bundle, artifacts))
        keep_points(Workspace(settings).store, record, decision, found, artifacts)
        emit("released", model=record.model, version=record.version, artifact=record.artifact_id)


def _capture(settings: Settings) -> CaptureChoice | None:
    from leanloop.serving import CaptureChoice

    rate, quota = settings.monitoring.capture_rate, settings.monitoring.capture_quota_bytes
    return CaptureChoice(folder=str(Workspace(settings).capture), rate=rate, quota_bytes=quota) if rate else None


@contextmanager
def _connected(settings: Settings) -> Iterator[TritonClient]:
    from leanloop.serving import stack

    folder = Workspace(settings).serving
    if settings.serving.autostart:
        stack.up(settings.serving, folder)
    with stack.connect(settings.serving, folder) as client:
        yield client


def bake_time(settings: Settings) -> timedelta:
    """How long a new version is watched before it counts as good: as many windows as an incident is judged over."""
    return timedelta(minutes=settings.monitoring.window_minutes * settings.monitoring.of)


def _artifact(artifacts: Artifacts, identity: str) -> Artifact:
    return next(artifact for artifact in artifacts.artifacts if artifact.id == identity)


def _measure(
    client: TritonClient, bundle: Bundle, settings: Settings, versions: tuple[int, ...], *, live: bool
) -> tuple[ServedMeasurement, ...]:
    from leanloop.serving import compare_served

    loads = {(settings.goal.batch_size, settings.goal.concurrency), (max(settings.measured_batch_sizes), 1), (1, 8)}
    if live:
        # Requests of others wait while we measure: one client, and the goal's batch.
        loads = {(settings.goal.batch_size, 1)}
    served: list[ServedMeasurement] = []
    for batch_size, concurrency in sorted(loads):
        if batch_size > settings.serving.max_batch_size:
            continue
        rows = np.arange(batch_size)
        batch = {name: np.take(values, rows, axis=0, mode="wrap") for name, values in bundle.samples.items()}
        measured = compare_served(
            client.grpc_url,
            bundle.manifest.name,
            versions,
            batch,
            concurrency=concurrency,
            blocks=settings.benchmark.blocks,
            block_seconds=max(_LEAST_BLOCK_SECONDS, settings.benchmark.block_seconds),
        )
        served.extend(measured.values())
    return tuple(served)


def _metrics(release: Release, verdict: Verdict, benchmark: Benchmark) -> dict[str, float | int]:
    metrics: dict[str, float | int] = {"version": release.version}
    for role, value in verdict.test_metric.items():
        metrics[f"{role}_test_{benchmark.metric_name.replace(':', '_')}"] = round(value, 6)
    for variant in benchmark.variants:
        if variant.id == release.artifact_id:
            metrics["size_bytes"] = variant.size_bytes
            metrics["peak_memory_bytes"] = variant.peak_memory_bytes
            metrics["latency_p50_ms"] = variant.at(verdict.batch_size).p50_ms.value
            metrics["latency_p99_ms"] = variant.at(verdict.batch_size).p99_ms.value
    for baseline, speedup in verdict.speedup.items():
        metrics[f"speedup_over_{baseline}"] = round(speedup.value, 3)
    for row in release.served:
        metrics[f"served_v{row.version}_b{row.batch_size}_c{row.concurrency}_throughput"] = round(row.throughput, 1)
    return metrics


def _keep(settings: Settings, release: Release, bundle: Path, artifacts: Path) -> str:
    # So that `leanloop predict`, `releases` and repairs work long after the run's own folder is gone.
    store = Workspace(settings).store
    store.put_json(settings_key(release.model), settings.model_dump(mode="json"))
    store.put_folder(f"bundles/{release.bundle_digest}", bundle)
    artifact = _artifact(Artifacts.load(artifacts), release.artifact_id)
    keep_artifact(store, release.bundle_digest, artifact, artifacts / artifact.id)
    store.put_json(release_key(release), release.model_dump(mode="json"))
    return release_key(release)
