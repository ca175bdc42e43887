"""A served digits model and the requests that it was asked: what a re-optimisation starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from leanloop.bundle import Bundle
from leanloop.core.contracts import Artifact, Candidate, Parity, Release, ServingChoice
from leanloop.core.settings import Settings, load_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.monitoring.collect import rows_of
from leanloop.monitoring.database import open_database
from leanloop.monitoring.labels import Label, Labels
from leanloop.optimize.candidate import finish_one
from leanloop.optimize.plan import Job
from leanloop.optimize.recipe import Recipe
from leanloop.serving.capture_format import Record
from leanloop.steps import bundle as bundle_step

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
NOW = 1_790_000_000.0


@dataclass(frozen=True)
class Served:
    """A model that serves.

    Attributes:
        settings: With absolute paths.
        release: In the store.
        bundle: Its bundle.
    """

    settings: Settings
    release: Release
    bundle: Bundle


def serve(workspace: Path, recipe: Recipe) -> Served:
    """Release the digits model with a recipe, without a server."""
    overrides = {
        "workspace": str(workspace),
        "monitoring.trigger": {"fresh_labels": 200},
        "optimize.techniques": ["ort_static_int8", "ort_dynamic_int8"],
        "benchmark.batch_sizes": [1, 8],
        "targets": ["onnxruntime"],
    }
    settings = with_absolute_paths(load_settings(EXAMPLE / "params.yaml", overrides), EXAMPLE)
    folder = workspace / "first"
    bundle_step.run(settings, project=EXAMPLE, bundle=folder / "bundle")
    bundle, store = Bundle(folder / "bundle"), Workspace(settings).store
    job = Job(
        bundle=str(bundle.folder), store=store.url, goal=settings.goal, threads=1, trial=0, folder=str(folder / "job")
    )
    row = finish_one(recipe, job, job.workshop())
    assert row.state == "complete", row.reason
    store.get_folder(f"candidates/{row.candidate_id}", folder / "candidate")
    candidate = Candidate.load(folder / "candidate")
    parity = Parity(
        samples=1, batch_sizes=(1,), max_abs_error=0.0, cosine=1.0, top1_agreement=1.0, passed=True, limits={}
    )
    artifact = Artifact(
        id=candidate.id, baseline=False, recipe=candidate.recipe, model=candidate.model, parity=parity, metric=None
    )
    digest = bundle.manifest.digest
    store.put_folder(f"bundles/{digest}", bundle.folder)
    store.put_folder(f"artifacts/{digest}/{artifact.id}", folder / "candidate")
    store.put_json(f"artifacts/{digest}/{artifact.id}.json", artifact.model_dump(mode="json"))
    release = Release(
        model=bundle.manifest.name,
        version=2,
        artifact_id=artifact.id,
        artifact_digest="",
        bundle_digest=digest,
        recipe=candidate.recipe,
        runtime=candidate.model.runtime,
        precision=candidate.model.precision,
        versions={"2": artifact.id},
        choice=ServingChoice(instances=1, threads=1, max_batch_size=16, queue_delay_us=0),
        served=(),
        golden_queries=0,
        http_url="",
        grpc_url="",
        hardware_id="",
        code_version="",
        created="",
        note="",
    )
    return Served(settings, release, bundle)


def ask(
    settings: Settings, images: np.ndarray, labels: np.ndarray | None, *, model: str = "digits", start: float = NOW
) -> None:
    """Write requests as the collector would, one image each, and their labels."""
    records = [
        Record(
            f"till{number % 5}.{number}",
            model,
            2,
            start + number,
            0.1,
            {"image": image[None]},
            {"logits": np.zeros((1, 10), np.float32)},
        )
        for number, image in enumerate(images)
    ]
    folder = Workspace(settings).rows / f"model={model}" / "version=2" / "date=2026-09-21"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_of(records), folder / f"{start:.0f}.parquet")
    if labels is not None:
        told = [Label(request_id=record.id, label=int(label)) for record, label in zip(records, labels, strict=True)]
        Labels(open_database(Workspace(settings).database_url)).add(model, told)


def brighter(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The test images with half the range added to every pixel, and their labels."""
    test = bundle.split("test")
    assert test.targets is not None
    return np.clip(test.inputs["image"] + 0.5, 0, 1), test.targets
