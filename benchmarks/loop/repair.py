"""One repair, by the steps of ``leanloop.pipelines.reoptimize`` up to the gate, and the traffic that comes after it.

Steps, judgement and diagnosis are the product's own; what is left out is the servers. So captured rows are written here
as the collector writes them, the gate's winner counts as promoted, and the uncompressed parent is asked in-process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from loop.champion import Answering, Served, seen

from leanloop.bundle import Bundle
from leanloop.core.contracts import Artifacts, Release, Verdict
from leanloop.core.errors import RefusedError
from leanloop.core.releases import ORIGINAL, baseline_key
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.collect import rows_of
from leanloop.monitoring.database import open_database
from leanloop.monitoring.diagnosis import diagnose
from leanloop.monitoring.evidence import evidence_of
from leanloop.monitoring.feed import Feed
from leanloop.monitoring.incidents import Incidents
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.labels import Label, Labels
from leanloop.monitoring.served import KeptBaseline
from leanloop.monitoring.watch import ReleaseWatch
from leanloop.monitoring.watched import findings_of
from leanloop.pipelines.demo.shifts import Shift
from leanloop.serving import ModelSpec, TensorSpec
from leanloop.serving.capture_format import Record
from leanloop.steps import analyze, benchmark, convert, remake, revise, select, snapshot
from leanloop.steps.baseline import keep_baselines

START = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
SECONDS_APART = 0.025
"""Between two requests, as in the demo."""

Pool = tuple[np.ndarray, np.ndarray]
"""Images, and their classes."""


def repair(
    served: Served, shift: Shift, severity: int, seed: int, *, labels: int, windows: int, folder: Path
) -> dict[str, Any]:
    """Repair the champion after a shift, and watch what comes after.

    Args:
        served: The champion.
        shift: Of the test images.
        severity: Of the shift.
        seed: Draws noise, the images that are learnt from, and the later windows.
        labels: Images that the repair learns from; all others are what it is judged by.
        windows: Of the shifted traffic afterwards.
        folder: Of this repair, empty; its workspace, beside the champion's store.

    Returns:
        Accuracies before and after, seconds per step, why there is no winner, incidents afterwards.
    """
    rng = np.random.default_rng(seed)
    clean, classes = served.samples("test")
    images = seen(clean, shift, severity, rng)
    learnt, unseen = np.split(rng.permutation(len(classes)), [labels])
    pools: dict[str, Pool] = {
        "clean": (clean[unseen], classes[unseen]),
        "shifted": (images[unseen], classes[unseen]),
        "golden": served.samples("validation"),
    }
    settings = served.settings.model_copy(update={"workspace": str(folder)})
    known = Labels(open_database(Workspace(settings).database_url))
    labelled = images[learnt], classes[learnt]
    spec = spec_of(served.files)
    capture(settings, known, spec, served.release.version, labelled, served.files.answers(labelled[0]), START)
    found: dict[str, Any] = {"shift": shift, "severity": severity, "seed": seed, "labels": labels}
    found["champion"] = {name: served.files.accuracy(*pool) for name, pool in pools.items()}
    found["seconds"], found["cpu_seconds"], found["refused"] = run_steps(settings, served.release, folder)
    if found["refused"]:
        return found

    verdict, artifacts = Verdict.load(folder / "verdict"), Artifacts.load(folder / "artifacts")
    bundle = Bundle(folder / "bundle")
    made = {one.id: Answering(bundle, one, folder / "artifacts" / one.id) for one in artifacts.artifacts}
    assert verdict.winner is not None
    parent, winner = made[ORIGINAL], made[verdict.winner]
    for role, files in (("parent", parent), ("winner", winner)):
        found[role] = {name: files.accuracy(*pool) for name, pool in pools.items()}
    found["reason"] = verdict.reason
    keep_baselines(settings, bundle, parent.artifact, winner.artifact, folder / "artifacts")
    version = served.release.version + 1
    found["incidents"] = aftermath(settings, known, version, winner, parent, pools["shifted"], windows, rng)
    return found


def run_steps(settings: Settings, release: Release, folder: Path) -> tuple[dict[str, float], dict[str, float], str]:
    """The steps up to the gate: by name the seconds, and the CPU seconds, that each took; and why one refused."""
    champion, taken, bundle = folder / "champion", folder / "snapshot", folder / "bundle"
    analysis, candidates, artifacts = folder / "analysis", folder / "candidates", folder / "artifacts"
    measured, verdict = folder / "benchmark", folder / "verdict"
    steps: dict[str, Callable[[Settings], None]] = {
        "snapshot": partial(snapshot.run, release=release, since=START, champion=champion, snapshot=taken),
        "revise": partial(revise.run, champion=champion, snapshot=taken, bundle=bundle, aim="accuracy"),
        "analyze": partial(analyze.run, bundle=bundle, analysis=analysis),
        "remake": partial(
            remake.run, champion=champion, bundle=bundle, analysis=analysis, candidates=candidates, aim="accuracy"
        ),
        "convert": partial(convert.run, bundle=bundle, candidates=[candidates], artifacts=artifacts),
        "benchmark": partial(benchmark.run, bundle=bundle, artifacts=artifacts, benchmark=measured),
        "select": partial(
            select.run, bundle=bundle, analysis=analysis, artifacts=artifacts, benchmark=measured, verdict=verdict
        ),
    }
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}
    for name, run in steps.items():
        started, before = time.monotonic(), sum(os.times()[:4])
        try:
            run(settings)
        except RefusedError as error:
            return seconds, cpu_seconds, str(error)
        finally:
            seconds[name] = round(time.monotonic() - started, 1)
            cpu_seconds[name] = round(sum(os.times()[:4]) - before, 1)
    return seconds, cpu_seconds, ""


def aftermath(
    settings: Settings,
    known: Labels,
    version: int,
    winner: Answering,
    parent: Answering,
    pool: Pool,
    windows: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """What the watch over the new release says of further windows whose labels have all come: its incidents.

    Args:
        settings: Of the repair.
        known: Labels.
        version: Of the new release.
        winner: Its files.
        parent: The original that it was made from.
        pool: Images that the repair has not seen; a window holds each of them once at most.
        windows: How many.
        rng: Draws them.
    """
    workspace, monitoring, manifest = Workspace(settings), settings.monitoring, winner.bundle.manifest
    key = baseline_key(manifest.digest, winner.artifact.id)
    workspace.store.get_folder(key, workspace.root / "baseline")
    engine, spec = open_database(workspace.database_url), spec_of(winner)
    watch = ReleaseWatch(
        engine,
        monitoring,
        Feed(workspace.rows, spec, version, monitoring.window, 60 * monitoring.window_minutes, {}),
        KeptBaseline(key, Baseline.load(workspace.root / "baseline")),
        known,
        lambda inputs: parent.answers(inputs[spec.inputs[0].name]),
    )
    (images, classes), answers = pool, winner.answers(pool[0])
    incidents, now = Incidents(engine), START + 3600
    for _ in range(windows):
        rows = rng.choice(len(classes), monitoring.window, replace=False)
        now = capture(settings, known, spec, version, (images[rows], classes[rows]), answers[rows], now)
        watch.look(now)
        # The server is well: it is not asked.
        found = findings_of(
            watch,
            answers=True,
            failing=False,
            right=True,
            baking=watch.windows < monitoring.of,
            latency_burns=False,
            request_rate=0.0,
            capacity=0.0,
            revision_refused=False,
        )
        evidence = evidence_of(found, monitoring.trigger, now)
        incidents.observe(spec.name, version, diagnose(evidence), evidence, {}, now=now)
    assert watch.windows == windows, "every window is judged"
    return [asdict(incident) for incident in incidents.latest(windows, spec.name)]


def capture(
    settings: Settings, known: Labels, spec: ModelSpec, version: int, pool: Pool, answers: np.ndarray, start: float
) -> float:
    """Write a request per image as the collector does, and tell its label; returns the time of the last one."""
    (image,), (output,), (images, classes) = spec.inputs, spec.outputs, pool
    times = [start + SECONDS_APART * number for number in range(1, len(images) + 1)]
    records = [
        Record(
            f"v{version}t{round(1000 * time)}",
            spec.name,
            version,
            time,
            0.1,
            {image.name: images[row : row + 1]},
            {output.name: answers[row : row + 1]},
        )
        for row, time in enumerate(times)
    ]
    folder = Workspace(settings).rows / f"model={spec.name}" / f"version={version}" / "date=2026-11-22"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_of(records), folder / f"{start:.3f}.parquet")
    told = [Label(request_id=record.id, label=int(label)) for record, label in zip(records, classes, strict=True)]
    known.add(spec.name, told, received=times[-1])
    return times[-1]


def spec_of(files: Answering) -> ModelSpec:
    """Name and tensors, as they are served."""
    bundle = files.bundle
    (image,), name = bundle.manifest.inputs, bundle.manifest.outputs[0]
    return ModelSpec(
        name=bundle.manifest.name,
        inputs=(TensorSpec(name=image.name, shape=image.shape, dtype=image.dtype),),
        outputs=(TensorSpec.of(name, files.answers(bundle.samples[image.name])),),
    )
