"""How the next trial is chosen: bisection for the strongest shape that still holds the accuracy.

Stronger pruning is faster and smaller, and less accurate. So there is one strength at which the accuracy is just
held, and each fully trained shape tells on which side of it the rest lies. For each shape and effort there is a
bracket::

    low   strongest that holds the accuracy (or that is too large or too slow anyway: weaker ones are, too)
    high  weakest above it that does not

The next is the free strength between them that is farthest from all that is known or under way, so that parallel
workers share the bracket. Shapes much weaker or stronger than networks usually bear count half. When the bracket is
closed, the shapes above it are tried again with more training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from leanloop.optimize.plan import FAILS, HOLDS, NO_TIME, NOT_ENOUGH
from leanloop.optimize.space import EFFORTS, Space

STATUS = "status"
"""User attribute of an ended trial: a `Status`."""

Point = tuple[str, int, int]
"""Shape, strength, effort."""


class FrontierSampler(BaseSampler):
    """Proposes the next point of a `Space`, from what all other trials found; it draws nothing at random."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are chosen together."""
        return distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point; when another worker has just closed the last bracket, one that is known already."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        point = next_point(self._space, others)
        return as_params(point or (first_shape(self._space), 0, EFFORTS[0]))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Not reached: all parameters belong to `infer_relative_search_space`."""
        raise KeyError(param_name)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The parameters of a trial."""
    strongest = max((len(configs) for configs in space.shapes.values()), default=0)
    return {
        "shape": CategoricalDistribution(tuple(space.shapes) or (first_shape(space),)),
        "strength": IntDistribution(0, strongest),
        "effort": IntDistribution(min(EFFORTS), max(EFFORTS)),
    }


def point_of(trial: FrozenTrial | Trial) -> Point | None:
    """A trial's point; None while a new trial has none yet."""
    params = trial.params
    return (params["shape"], params["strength"], params["effort"]) if len(params) == 3 else None


def as_params(point: Point) -> dict[str, Any]:
    """A point as a trial's parameters."""
    return dict(zip(("shape", "strength", "effort"), point, strict=True))


def first_shape(space: Space) -> str:
    """A shape's name for the point of strength 0, which is the original's own shape."""
    return next(iter(space.shapes), "none")


def next_point(space: Space, trials: Sequence[FrozenTrial]) -> Point | None:
    """The next point that is worth a trial, given all other trials; None when none is."""
    for effort in EFFORTS if space.training else EFFORTS[:1]:
        for shape, configs in space.shapes.items():
            strength = _between(len(configs), _known(trials, shape, effort), bisecting=effort == EFFORTS[0])
            if strength is not None:
                return shape, strength, effort
    return None


def _known(trials: Sequence[FrozenTrial], shape: str, effort: int) -> dict[int, str]:
    """What is known of each strength, as seen from an effort.

    What holds with less training holds with more; what fails with more fails with less.
    """
    known: dict[int, str] = {0: HOLDS}
    for trial in trials:
        point = point_of(trial)
        if point is None or point[0] != shape:
            continue
        _, strength, own = point
        status = trial.user_attrs.get(STATUS)
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            if own == effort:
                known.setdefault(strength, "under way")
        elif (status in (HOLDS, NOT_ENOUGH) and own <= effort) or (status == FAILS and own >= effort):
            known[strength] = status
        elif status == NO_TIME and own <= effort:
            known.setdefault(strength, NO_TIME)
    return known


def _between(strongest: int, known: Mapping[int, str], *, bisecting: bool) -> int | None:
    high = min((s for s, status in known.items() if status == FAILS), default=strongest + 1)
    low = max(s for s, status in known.items() if status in (HOLDS, NOT_ENOUGH) and s < high)
    # Weaker shapes train longer still than one that there is no time for.
    too_long = max((s for s, status in known.items() if status == NO_TIME), default=0)
    free = [strength for strength in range(max(low, too_long) + 1, high) if strength not in known]
    if not bisecting:
        # More training moves the frontier by a step or two, so it is walked, from the first that failed.
        return min(free, default=None)
    marks = [low, high, *known]

    def worth(strength: int) -> tuple[float, int]:
        distance = min(abs(strength - mark) for mark in marks)
        usual = strongest / 2 <= strength <= strongest * 7 / 8
        # On a tie the stronger shape: it trains faster, and a failure there costs the least.
        return distance * (1.0 if usual else 0.5), strength

    return max(free, key=worth, default=None)
