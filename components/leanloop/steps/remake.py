"""Fourth step of a re-optimisation: the champion's recipe again, on the revised bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from leanloop.core.contracts import Aim, Analysis, BundleManifest, Challenge
from leanloop.core.events import step_events
from leanloop.core.files import atomic_folder
from leanloop.core.loop_contracts import CHAMPION, Champion
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

    from leanloop.bundle import Bundle


def run(settings: Settings, *, champion: Path, bundle: Path, analysis: Path, candidates: Path, aim: Aim) -> None:
    """Make the champion's recipe again, or search where that does not do; the champion itself goes along.

    Args:
        settings: The run's settings; ``monitoring.trigger.budget_minutes`` limits recipe and search.
        champion: Folder of `leanloop.steps.snapshot`.
        bundle: Folder of `leanloop.steps.revise`.
        analysis: Folder of `leanloop.steps.analyze`.
        candidates: Folder to write (`Candidates`, as of one search worker; ``champion/``).
        aim: What must get better.
    """
    with step_events("remake"):
        from leanloop.bundle import Bundle
        from leanloop.optimize import left_alone, remake

        serving, revised = Champion.load(champion), Bundle(bundle)
        with atomic_folder(candidates) as folder:
            with left_alone.hearing() as heard:
                made = remake(
                    revised,
                    Analysis.load(analysis),
                    serving.artifact.recipe,
                    BundleManifest.load(champion / "bundle"),
                    in_budget(settings),
                    folder,
                    aim=aim,
                    serving=_answers(champion, serving, revised, settings.goal.threads),
                )
            made = left_alone.told(made, heard, Workspace(settings).store)
            shutil.copytree(champion / "artifact", folder / CHAMPION)
            serving.save(folder / CHAMPION)
            challenge = Challenge(champion=f"champion-{serving.artifact.id}", aim=aim)
            made.model_copy(update={"challenge": challenge}).save(folder)


def _answers(champion: Path, serving: Champion, revised: Bundle, threads: int) -> np.ndarray:
    """First output of what serves on the revised validation split, [samples, ...]."""
    from leanloop.bundle import Bundle
    from leanloop.runtime import answers_of

    model, own = serving.artifact.model, Bundle(champion / "bundle")
    answers = answers_of(model, champion / "artifact", revised.split("validation"), threads=threads, bundle=own)
    return answers[revised.manifest.outputs[0]]


def in_budget(settings: Settings) -> Settings:
    """The settings of a search beside a live server: one worker, and the budget of a re-optimisation."""
    budget = settings.monitoring.trigger.budget_minutes
    return settings.model_copy(
        update={"optimize": settings.optimize.model_copy(update={"workers": 1, "budget_minutes": budget})}
    )
