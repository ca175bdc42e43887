"""Original, both winners and plain INT8 in one run of the product's own benchmark step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from leanloop.benchmark import benchmark_variants
from leanloop.bundle import Bundle
from leanloop.convert import baselines, check_parity
from leanloop.core.contracts import Artifact, Artifacts, RecipeRecord
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.optimize import Recipe, Workshop, make_files

BLOCKS = 20

PLAIN = {
    "plain-ort-static-int8-per-channel": ("onnxruntime", {"technique": "ort_static_int8", "per_channel": True}),
    "plain-ort-static-int8-per-tensor": ("onnxruntime", {"technique": "ort_static_int8", "per_channel": False}),
    "plain-nncf-int8": ("openvino", {"technique": "nncf_int8", "bias_correction": "fast"}),
}


def measure(batch_1: dict[str, Any], batch_32: dict[str, Any], destination: Path) -> dict[str, Any]:
    """Median latencies at batch 1 and 32, sizes and validation accuracies, by variant."""
    shutil.rmtree(destination, ignore_errors=True)
    bundle, folder = Bundle(Path(batch_1["bundle"])), destination / "artifacts"
    settings = Settings.model_validate(
        batch_1["settings"]
        | {"benchmark": batch_1["settings"]["benchmark"] | {"batch_sizes": [1, 32], "blocks": BLOCKS}}
    )
    artifacts = baselines(bundle, folder, settings.targets, threads=settings.goal.threads)
    workshop = Workshop(bundle, Store(str(destination / "store")), threads=1)
    for name, (target, technique) in PLAIN.items():
        record = RecipeRecord(target=target, techniques=(technique,))  # type: ignore[arg-type]
        model = make_files(Recipe.from_record(record), workshop, folder / name)
        parity = check_parity(bundle, model, folder / name, threads=settings.goal.threads)
        artifacts.append(Artifact(id=name, baseline=False, recipe=record, model=model, parity=parity))
    for name, run in (("winner-batch-1", batch_1), ("winner-batch-32", batch_32)):
        source = Path(run["artifacts"])
        winner = next(one for one in Artifacts.load(source).artifacts if one.id == run["verdict"]["winner"])
        shutil.copytree(source / winner.id, folder / name)
        artifacts.append(winner.model_copy(update={"id": name}))
    record_of_all = Artifacts(
        bundle_digest=bundle.manifest.digest, artifacts=tuple(artifacts), rejected={}, left_out={}, trials=()
    )
    record_of_all.save(folder)
    (destination / "benchmark").mkdir()
    benchmark = benchmark_variants(bundle, record_of_all, folder, settings, destination / "benchmark")
    return {
        "bundle": batch_1["bundle"],
        "p50_ms": {
            variant.id: {str(row.batch_size): row.p50_ms.value for row in variant.latency}
            for variant in benchmark.variants
        },
        "size_bytes": {variant.id: variant.size_bytes for variant in benchmark.variants},
        "original_size_bytes": benchmark.original_size_bytes,
        "validation": {variant.id: variant.metric for variant in benchmark.variants},
        "models": {artifact.id: artifact.model.model_dump(mode="json") for artifact in artifacts},
        "benchmark": benchmark.model_dump(mode="json"),
    }
