"""What live windows of a release are compared with, made from its own answers on the validation split."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leanloop.core.contracts import Artifact
from leanloop.core.releases import baseline_key
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace

if TYPE_CHECKING:
    from leanloop.bundle import Arrays, Bundle

_BATCH = 64

_LEAST_FRESH = 100
"""Fewer are no measure of what is normal; but even so few are a better one than what was asked before."""


def keep_baselines(settings: Settings, bundle: Bundle, original: Artifact, champion: Artifact, artifacts: Path) -> None:
    """Make and keep the baselines of the original and of the release; one that is kept already stays as it is.

    Args:
        settings: The run's settings.
        bundle: The owner's.
        original: The fp32 ONNX file that compression is judged against.
        champion: The release's artifact; it may be the original.
        artifacts: Folder of `leanloop.steps.convert`, which holds both.

    Raises:
        DataError: The validation split is too small to tell what is normal.
    """
    from leanloop.monitoring.judge import Baseline
    from leanloop.runtime import answers_of

    store = Workspace(settings).store
    validation = bundle.split("validation")
    rows = np.random.default_rng(0).permutation(_normal(bundle, len(validation)))
    split = validation.take(rows)
    first = bundle.manifest.outputs[0]

    def answers(artifact: Artifact) -> Arrays:
        folder, threads = artifacts / artifact.id, settings.goal.threads
        return answers_of(artifact.model, folder, split, threads=threads, bundle=bundle, batch_size=_BATCH)

    parent = answers(original)
    for artifact in {one.id: one for one in (original, champion)}.values():
        key = baseline_key(bundle.manifest.digest, artifact.id)
        if store.has_folder(key):
            continue
        own = artifact.id == original.id
        baseline = Baseline.fit(
            split.inputs,
            (parent if own else answers(artifact))[first],
            # The original is its own parent: it cannot disagree with itself.
            None if own else parent[first],
            split.targets,
            task=bundle.manifest.task,
        )
        with tempfile.TemporaryDirectory(prefix="leanloop-baseline-") as name:
            baseline.save(Path(name))
            store.put_folder(key, Path(name))


def _normal(bundle: Bundle, samples: int) -> np.ndarray:
    """The validation samples that look as live traffic does now: all, or those of a revision that are fresh."""
    fresh = np.flatnonzero(bundle.fresh_rows("validation"))
    return fresh if len(fresh) >= _LEAST_FRESH else np.arange(samples)
