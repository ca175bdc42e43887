"""What a new version goes through in a scratch Triton before it may serve: golden answers, shadow, tuning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leanloop.core.contracts import Artifact, ServingChoice
from leanloop.core.errors import DataError, RefusedError, ServingError
from leanloop.core.events import progress
from leanloop.core.settings import Settings

if TYPE_CHECKING:
    from leanloop.bundle import Arrays, Bundle
    from leanloop.serving import Journal, ModelRepository, ModelSpec, Package, Rollout, Stage

STAGES = 5
"""Of the whole deployment, for its progress."""

_GOLDEN_SAMPLES = 32
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3, "fp16": 5e-3, "int8": 5e-3}
"""Of golden answers at the very batch size, where Triton computes as this process does."""
_ROUGH_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2, "int8": 3e-2}
"""At other batch sizes: an integer model rounds in steps of about a hundredth of its largest output."""
_HOLD = timedelta(days=1)
"""How long an inconclusive rollout is held before it counts as discarded."""


def package(bundle: Bundle, artifact: Artifact, artifacts: Path, settings: Settings) -> Package:
    """An artifact as it goes into Triton, with its golden queries.

    Args:
        bundle: Gives the samples.
        artifact: Which one.
        artifacts: Folder of `leanloop.steps.convert`.
        settings: Gives threads and batch size.
    """
    from leanloop.runtime import open_session
    from leanloop.serving import Golden, Package

    folder = artifacts / artifact.id
    sizes = settings.served_batch_sizes
    session = open_session(artifact.model, folder, threads=settings.goal.threads, bundle=bundle, batch_sizes=sizes)
    try:
        golden = Golden.ask(
            lambda inputs: session.run(dict(inputs)),
            {name: values[:_GOLDEN_SAMPLES] for name, values in bundle.samples.items()},
            sizes,
            tolerance=_TOLERANCE[artifact.model.precision],
            rough_tolerance=_ROUGH_TOLERANCE[artifact.model.precision],
        )
    finally:
        session.close()
    return Package(artifact.id, artifact.model, folder, golden, batch_sizes=sizes)


def served_spec(bundle: Bundle, original: Package) -> ModelSpec:
    """Name and tensors of the model as it is served."""
    from leanloop.serving import ModelSpec, TensorSpec

    return ModelSpec(
        name=bundle.manifest.name,
        inputs=tuple(TensorSpec(name=spec.name, shape=spec.shape, dtype=spec.dtype) for spec in bundle.manifest.inputs),
        outputs=tuple(TensorSpec.of(name, values) for name, values in original.golden.outputs.items()),
    )


def rehearse(
    settings: Settings,
    bundle: Bundle,
    models: ModelRepository,
    journal: Journal,
    rollout: Rollout,
    spec: ModelSpec,
    packages: list[Package],
    captured: Path | None,
) -> tuple[Rollout, ServingChoice]:
    """Stage the packages in a scratch Triton: golden answers, the shadow where there are captured requests, tuning.

    Args:
        settings: The run's settings.
        bundle: Gives samples and task.
        models: The running Triton's repository.
        journal: Of the rollouts.
        rollout: Just begun.
        spec: Name and tensors.
        packages: The original first, the new version last.
        captured: ``.npz`` of captured requests, or None.

    Returns:
        The rollout, and the instances and batching that were best.

    Raises:
        RefusedError: The new version is slower or answers otherwise in the shadow, or nobody can tell.
        ServingError: It does not load, or does not give its golden answers.
    """
    from leanloop.serving import stage, tune

    progress(0, STAGES, "staging in a scratch Triton")
    champion = None if captured is None else _champion(settings, models, journal, spec, packages)
    staged_packages = [*([] if champion is None else [champion]), *packages]
    with stage(settings.serving, spec, staged_packages, settings.goal.threads) as staged:
        rollout = journal.move(rollout, "validated", golden_queries=len(packages[-1].golden))
        if captured is not None and champion is not None:
            progress(1, STAGES, "shadowing the version that serves")
            requests = _requests(captured, spec)
            rollout = _shadow(journal, rollout, staged, requests, bundle, reference=staged.newest - len(packages) + 1)
        progress(2, STAGES, "tuning instances and batching")
        choice, _ = tune(staged, settings.goal, settings.serving, bundle.samples)
    return rollout, choice


def _champion(
    settings: Settings, models: ModelRepository, journal: Journal, spec: ModelSpec, packages: list[Package]
) -> Package | None:
    # None: nothing serves that the new version could be compared with, or it is the very version that serves.
    config = models.config(spec.name)
    if config is None or config.spec != spec:
        return None
    version = max(config.versions)
    if version == models.find(spec, packages[-1], settings.goal.threads):
        return None
    golden = journal.golden(spec.name, version)
    if golden is None:
        raise ServingError(
            "No golden queries were kept of the version that serves, so it cannot be staged beside the new one.",
            where=f"{spec.name} version {version}",
            fix="Deploy once without captured requests: `leanloop run`.",
        )
    return models.package(spec.name, version, golden)


def _requests(captured: Path, spec: ModelSpec) -> Arrays:
    with np.load(captured, allow_pickle=False) as file:
        missing = [tensor.name for tensor in spec.inputs if f"inputs/{tensor.name}" not in file.files]
        if missing:
            raise DataError(
                "Captured requests lack an input of the model.",
                where=str(captured),
                value=", ".join(missing),
                fix=f"The file has {', '.join(file.files) or 'nothing'}; an input is written as inputs/<name>.",
            )
        return {tensor.name: file[f"inputs/{tensor.name}"] for tensor in spec.inputs}


def _shadow(
    journal: Journal, rollout: Rollout, staged: Stage, requests: Arrays, bundle: Bundle, *, reference: int
) -> Rollout:
    from leanloop.serving import shadow

    result = shadow(
        staged,
        requests,
        champion=1,
        challenger=staged.newest,
        reference=reference,
        classification=bundle.manifest.task == "classification",
    )
    rollout = journal.move(rollout, "shadowed", result.reason, shadow=result)
    if result.outcome == "inconclusive":
        journal.move(rollout, "inconclusive", result.reason, deadline=datetime.now(UTC) + _HOLD)
        raise RefusedError(
            f"The shadow could not tell whether the new version is as good: {result.reason}.",
            where=str(rollout),
            fix="Deploy again when more requests were captured; what served before serves on.",
        )
    if not result.passed:
        raise RefusedError(
            f"The shadow refused the new version: {result.reason}.",
            where=str(rollout),
            fix="What served before serves on.",
        )
    return rollout
