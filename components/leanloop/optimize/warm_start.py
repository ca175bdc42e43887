"""Beginning where a search of the same architecture ended: retrained weights bear about the same shapes.

A family is one factory with one code, inputs and outputs, whatever the weights. At the end of a search the store
keeps, for the accuracy that was asked for, the strongest rung of the first ladder that held, and the least effort that
it held with. The next search of that family, on other weights, tries this rung and the one above it first, with that
effort, instead of bisecting the whole ladder: where both end as before, two trainings tell what took four.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState

from leanloop.bundle import Bundle
from leanloop.core.files import digest_folder, digest_json
from leanloop.core.settings import GoalSettings
from leanloop.core.store import Store
from leanloop.optimize.plan import HOLDS
from leanloop.optimize.sampler import STATUS, as_params, first_shape, point_of
from leanloop.optimize.space import EFFORTS, Space


def remember(study: optuna.Study, space: Space, bundle: Bundle, goal: GoalSettings, store: Store) -> None:
    """Keep the strongest rung of the first ladder that held the accuracy; nothing when none did."""
    shape, held = first_shape(space), (0, 0)
    for trial in study.get_trials(deepcopy=False):
        point = point_of(trial)
        if point is not None and point[0] == shape and trial.user_attrs.get(STATUS) == HOLDS:
            held = max(held, (point[1], -point[2]))
    strength, effort = held[0], -held[1]
    if strength:
        store.put_json(_key(bundle, goal), {"rung": _documents(space, strength), "effort": effort})


def recall(study: optuna.Study, space: Space, bundle: Bundle, goal: GoalSettings, store: Store) -> int | None:
    """Put the remembered rung and the next stronger one first into the queue of a new study.

    Returns:
        The remembered rung's strength; None when nothing of this family is known, or the study is not new.
    """
    if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        return None
    known = store.get_json(_key(bundle, goal))
    ladder = space.shapes.get(first_shape(space), ())
    strengths = range(1, len(ladder) + 1)
    held = next((one for one in strengths if known and known["rung"] == _documents(space, one)), None)
    if known and held is not None:
        # Stores of before the effort was kept knew rungs that held with the usual one.
        effort = known.get("effort", EFFORTS[0])
        for strength in (held, held + 1):
            if strength in strengths:
                study.enqueue_trial(as_params((first_shape(space), strength, effort)), skip_if_exists=True)
    return held


def _documents(space: Space, strength: int) -> list[dict[str, Any]]:
    return [config.document() for config in space.shapes[first_shape(space)][strength - 1]]


def _key(bundle: Bundle, goal: GoalSettings) -> str:
    manifest = bundle.manifest
    family = digest_json(
        {
            "factory": manifest.factory,
            "code": digest_folder(bundle.folder / "code"),
            "inputs": [spec.model_dump(mode="json") for spec in manifest.inputs],
            "outputs": manifest.outputs,
            "metric": manifest.metric,
            "max_accuracy_drop": goal.max_accuracy_drop,
        }
    )
    return f"families/{family}.json"
