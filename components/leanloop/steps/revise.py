"""Second step of a re-optimisation: a new revision of the bundle, from what was asked lately."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leanloop.core.child import Child
from leanloop.core.contracts import Aim
from leanloop.core.events import emit, step_events
from leanloop.core.hardware import usable_cores
from leanloop.core.loop_contracts import STUDENT, Snapshot
from leanloop.core.settings import Settings

TRAINING_SHARE = 0.6
"""Of the re-optimisation's budget, for the fine-tuning of the parent."""


def run(settings: Settings, *, champion: Path, snapshot: Path, bundle: Path, aim: Aim) -> None:
    """Mix live samples into the data, and fine-tune on them where labels are there to learn from.

    Args:
        settings: The run's settings.
        champion: Folder of `leanloop.steps.snapshot`.
        snapshot: Folder of `leanloop.steps.snapshot`.
        bundle: Folder to write (`BundleManifest`).
        aim: What must get better; only ``accuracy`` learns from labels.

    Raises:
        RefusedError: The fine-tuned model is not better on recent samples, or forgets what it knew.
        DataError: There are too few samples or labels.
    """
    student = champion / STUDENT
    with step_events("revise"), Child(preload=("torch", "leanloop.bundle.probe")) as child:
        from leanloop.bundle import Bundle
        from leanloop.optimize import Fresh, revise

        parent, taken = Bundle(champion / "bundle"), Snapshot.load(snapshot)
        with np.load(snapshot / "data.npz", allow_pickle=False) as archive:
            inputs = {spec.name: archive[f"inputs/{spec.name}"] for spec in parent.manifest.inputs}
            fresh = Fresh(inputs, archive["label"], archive["request_id"])
        manifest = revise(
            parent,
            fresh,
            bundle,
            aim=aim,
            settings=settings,
            seconds=60 * TRAINING_SHARE * settings.monitoring.trigger.budget_minutes,
            threads=usable_cores(),
            student=student if student.is_dir() else None,
            child=child,
        )
        emit("revised", digest=manifest.digest, parent=manifest.parent, records=taken.records)
