"""Step 3: finish the finalists of all workers and check them, and the original's baselines, against the original."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanloop.core.contracts import Artifact, Artifacts, Candidates
from leanloop.core.errors import ConversionError
from leanloop.core.events import progress, step_events
from leanloop.core.files import atomic_folder
from leanloop.core.loop_contracts import CHAMPION, Champion
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace

if TYPE_CHECKING:
    from leanloop.bundle import Bundle
    from leanloop.optimize import Finalist


def run(settings: Settings, *, bundle: Path, candidates: Sequence[Path], artifacts: Path) -> None:
    """Choose the finalists, add the fp32 baselines, and check that every file answers as the model it was made from.

    Where a call may use several threads, how it uses them is chosen here, too, for each file and served batch size.

    In a re-optimisation what serves goes along as one more variant, to be measured beside the others.

    Args:
        settings: The run's settings.
        bundle: Folder of `leanloop.steps.bundle`.
        candidates: One folder of `leanloop.steps.optimize` per worker.
        artifacts: Folder to write (`Artifacts`).

    Raises:
        ConversionError: The original itself does not survive conversion; a finalist that does not is left out.
    """
    with step_events("convert"):
        from leanloop.bundle import Bundle
        from leanloop.convert import baselines
        from leanloop.optimize import TECHNIQUES, all_rows, finalists, left_alone

        opened, chosen = Bundle(bundle), finalists(candidates, settings)
        workers = [Candidates.load(folder) for folder in candidates]
        rejected: dict[str, str] = {}
        with atomic_folder(artifacts) as folder:
            store = Workspace(settings).store
            found = baselines(opened, folder, settings.targets, threads=settings.goal.threads, store=store)
            for number, finalist in enumerate(chosen):
                progress(number, len(chosen), f"checking {finalist.candidate.recipe.describe()}")
                try:
                    found.append(_checked(opened, finalist, folder, settings.goal.threads))
                except ConversionError as error:
                    rejected[finalist.candidate.id] = str(error)
            found = [_planned(opened, artifact, folder, settings) for artifact in found]
            challenge = None
            for worker, source in zip(workers, candidates, strict=True):
                if worker.challenge is not None:
                    challenge = worker.challenge
                    found.append(_champion(source / CHAMPION, folder / challenge.champion))
            Artifacts(
                bundle_digest=opened.manifest.digest,
                artifacts=tuple(found),
                rejected=rejected,
                left_out={technique: why for worker in workers for technique, why in worker.left_out.items()},
                left_alone=left_alone.together(one for worker in workers for one in worker.left_alone),
                not_asked_for=tuple(sorted(set(TECHNIQUES) - set(settings.optimize.techniques))),
                trials=all_rows(workers),
                challenge=challenge,
            ).save(folder)


def _planned(bundle: Bundle, artifact: Artifact, folder: Path, settings: Settings) -> Artifact:
    """An artifact with the call plans of the batch sizes that are served: what is measured by one is served by it."""
    from leanloop.benchmark import with_plans

    sizes, threads = settings.served_batch_sizes, settings.goal.threads
    model = with_plans(artifact.model, folder / artifact.id, bundle.samples, sizes, threads=threads)
    return artifact.model_copy(update={"model": model})


def _champion(source: Path, target: Path) -> Artifact:
    """What serves, as it is: it was checked against the bundle that it was made from."""
    serving = Champion.load(source)
    for name in serving.artifact.model.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return serving.artifact.model_copy(update={"id": target.name, "baseline": False})


def _checked(bundle: Bundle, finalist: Finalist, folder: Path, threads: int) -> Artifact:
    from leanloop.bundle import Split
    from leanloop.convert import check_parity, parity_samples
    from leanloop.optimize import Recipe, rebuild

    candidate, target = finalist.candidate, folder / finalist.candidate.id
    for name in candidate.model.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(finalist.folder / name, target / name)
    reference = None
    if Recipe.from_record(candidate.recipe).torch:
        # A retrained model rightly answers otherwise than the original: its files are held against itself.
        samples = Split("parity", parity_samples(bundle), None)
        reference = bundle.predict(rebuild(finalist.folder, bundle), samples)
    parity = check_parity(bundle, candidate.model, target, threads=threads, reference=reference)
    if not parity.passed:
        shutil.rmtree(target)
        raise ConversionError(
            "The converted candidate does not answer as the model that it was made from.",
            where=candidate.recipe.describe(),
            value=f"cosine {parity.cosine:.5f}, top-1 agreement {parity.top1_agreement}, "
            f"maximum error {parity.max_abs_error:.3g}",
            fix=f"Allowed are {parity.limits}.",
        )
    return Artifact(
        id=candidate.id,
        baseline=False,
        recipe=candidate.recipe,
        model=candidate.model,
        parity=parity,
        metric=candidate.metric,
    )
