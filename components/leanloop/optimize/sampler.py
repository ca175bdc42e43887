"""How the next trial is chosen: bisection for the strongest shape that still holds the accuracy.

Stronger pruning is faster and smaller, and less accurate. So there is one strength at which the accuracy is just
held, and each fully trained shape tells on which side of it the rest lies. For each shape and effort there is a
bracket::

    low   strongest that holds the accuracy (or that is too large or too slow anyway: weaker ones are, too)
    high  weakest above it that does not

At first, the next is the free strength between them that is farthest from all that is known or under way, so that
parallel workers share the bracket. Shapes much weaker or stronger than networks usually bear count half. Once both ends
are known, with how far each is above or below the limit, the next is where the straight line between them meets it.

More training moves the frontier, and what it makes of one shape tells about the others. So once a cheap training has
told where the limit is, the first shape beyond it is trained more; the line is moved by what that gained, and only
shapes near where it meets the limit now are trained more.

So the first ladder of shapes is searched. What it found must be beaten by the others, and whether they are faster is
cheap to know: probes (an effort of nothing) time untrained shapes, and bisect for the mildest one that is better than
the best. That one is trained. Where it holds the accuracy, the next stronger one follows; where it does not, no
stronger one will, and the ladder is done. In the end, shapes that failed are tried again with more training.

Where nothing that reshapes holds yet, the end is too late: a budget that a hard goal leaves little of would go into one
failure after another. So after each ladder the narrowest failure so far has its turn with more training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from leanloop.optimize.plan import ABLE, DUPLICATE, FAILS, HOLDS, NO_TIME, NOT_ENOUGH
from leanloop.optimize.space import EFFORTS, PROBE, Space

STATUS, MARGIN = "status", "margin"
"""User attributes of an ended trial: a `Status`; the greatest `TrialRow.slack` of its candidates, or None."""

UNDER_WAY = "under way"

Point = tuple[str, int, int]
"""Name of the ladder, strength (the rung, from 1; 0 is the original's own shape), effort."""


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
        "effort": IntDistribution(PROBE, max(EFFORTS)),
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
    usual = EFFORTS[0]
    for number, (shape, ladder) in enumerate(space.shapes.items()):
        if number and space.trains and (narrow := _narrow(trials, ladders=number)) is not None:
            return narrow
        if number:
            found = _beating(len(ladder), _known(trials, shape, usual))
        else:
            found = _of_the_first(len(ladder), shape, trials, trains=space.trains)
        if found is not None:
            return shape, *found
    for effort in EFFORTS if space.trains else (usual,):
        for number, (shape, ladder) in enumerate(space.shapes.items()):
            if effort == usual and number:
                continue
            known = _known(trials, shape, effort)
            if effort == usual:
                known |= _settled_by_more(trials, shape)
            strength = _between(len(ladder), known, bisecting=effort == usual)
            if strength is not None:
                return shape, strength, effort
    return None


def _of_the_first(strongest: int, shape: str, trials: Sequence[FrozenTrial], *, trains: bool) -> tuple[int, int] | None:
    """Strength and effort of the first ladder's next trial; None when another worker is at it, or nothing is left."""
    usual, more = EFFORTS
    margins, further = _margins(trials, shape, usual), _known(trials, shape, more)
    # A tie tells nothing of the distance to the limit.
    if trains and NO_TIME not in further.values() and (ends := _ends(margins)) is not None and margins[ends[0]] > 0:
        gained = _margins(trials, shape, more)
        gains = [margin - _along(margins, strength) for strength, margin in gained.items()]
        strength = None
        if not gains:
            beyond = min(int(_crossing(*ends, margins)) + 1, ends[1])
            strength = beyond if _along(margins, beyond) > -margins.get(0, 0.0) else None
        elif (gain := sum(gains) / len(gains)) > 0:
            moved = {strength: margin + gain for strength, margin in margins.items()} | gained
            strength = _near_the_limit(strongest, moved, further)
            if strength is None:
                return None
        if strength is not None and further.get(strength) in (None, UNDER_WAY):
            return None if strength in further else (strength, more)
    strength = _expected(strongest, _known(trials, shape, usual) | _settled_by_more(trials, shape), margins)
    return None if strength is None else (strength, usual)


def _near_the_limit(strongest: int, expected: Mapping[int, float], known: Mapping[int, str]) -> int | None:
    """The next strength where some margins are only expected; None when nothing is left to learn for now.

    Args:
        strongest: Of the ladder.
        expected: Margin of each strength that was trained in some way.
        known: What is known for certain.
    """
    ends = _ends(expected)
    if ends is None:
        top = max(expected)
        if known.get(top) == HOLDS and top < strongest:
            return top + 1
        return None if top in known else top
    low, high = ends
    if high - low == 1:
        return None if low in known else low
    return _nearest(low, high, expected)


def _ends(margins: Mapping[int, float]) -> tuple[int, int] | None:
    """The strongest that holds below the weakest that does not, and that weakest one; None while there are not both."""
    high = min((strength for strength, margin in margins.items() if strength and margin < 0), default=0)
    low = max((strength for strength, margin in margins.items() if strength < high and margin >= 0), default=0)
    return (low, high) if low else None


def _along(margins: Mapping[int, float], strength: int) -> float:
    """A strength's margin as the straight line between its known neighbours has it."""
    known = sorted(margins)
    return float(np.interp(strength, known, [margins[one] for one in known]))


def _crossing(low: int, high: int, margins: Mapping[int, float]) -> float:
    """Where the straight line between two margins meets the limit; in the middle where the lower one is a tie."""
    if margins[low] == 0:
        return (low + high) / 2
    return low + (high - low) * margins[low] / (margins[low] - margins[high])


def _nearest(low: int, high: int, margins: Mapping[int, float]) -> int | None:
    """The strength between two that is nearest to that crossing; None when they are neighbours."""
    crossing = _crossing(low, high, margins)
    return min(range(low + 1, high), key=lambda strength: abs(strength - crossing), default=None)


def _settled_by_more(trials: Sequence[FrozenTrial], shape: str) -> dict[int, str]:
    """What need not have the usual training any more: what is no stronger than what holds with more, or has it now."""
    more = EFFORTS[1]
    held = max((strength for strength, margin in _margins(trials, shape, more).items() if margin >= 0), default=0)
    settled: dict[int, str] = {}
    for trial in trials:
        point = point_of(trial)
        if point is not None and (point[0], point[2]) == (shape, more) and not trial.state.is_finished():
            settled[point[1]] = UNDER_WAY
    return settled | dict.fromkeys(range(1, held + 1), NOT_ENOUGH)


def _narrow(trials: Sequence[FrozenTrial], ladders: int) -> Point | None:
    """The narrowest failure, with more training; None where something holds, or each ladder has had its turn.

    Narrow is what fell short of the limit, noise counted, by less than the original is above it.

    Args:
        trials: All others.
        ladders: How many were walked before: one turn each.
    """
    usual, more = EFFORTS
    above, failed, again = 0.0, {}, set()
    for trial in trials:
        point, status, margin = point_of(trial), trial.user_attrs.get(STATUS), trial.user_attrs.get(MARGIN)
        if point is None or trial.state == TrialState.FAIL or status == DUPLICATE:
            continue
        shape, strength, effort = point
        if strength and status == HOLDS:
            return None
        if effort == more:
            again.add((shape, strength))
        elif margin is not None and not strength:
            above = margin
        elif margin is not None and status == FAILS and effort == usual:
            failed[shape, strength] = margin
    if len(again) >= ladders:
        return None
    candidates = {place: margin for place, margin in failed.items() if place not in again and margin > -above}
    narrowest = max(candidates, key=lambda place: candidates[place], default=None)
    return None if narrowest is None else (*narrowest, more)


def _expected(strongest: int, known: Mapping[int, str], margins: Mapping[int, float]) -> int | None:
    """The strength where the limit is expected; None when another worker is at it, or nothing is left between."""
    low, high = _bracket(strongest, known)
    if not (low > 0 and margins.get(low, -1.0) > 0 > margins.get(high, 0.0)):
        return _between(strongest, known, bisecting=True)
    nearest = _nearest(low, high, margins)
    return None if nearest in known else nearest


def _margins(trials: Sequence[FrozenTrial], shape: str, effort: int) -> dict[int, float]:
    """How far above the limit each strength's metric came, after whole trainings of an effort."""
    found: dict[int, float] = {}
    for trial in trials:
        point, margin = point_of(trial), trial.user_attrs.get(MARGIN)
        whole = trial.user_attrs.get(STATUS) in (HOLDS, FAILS)
        if margin is not None and whole and point is not None and (point[0], point[2]) == (shape, effort):
            found[point[1]] = margin
    return found


def _bracket(strongest: int, known: Mapping[int, str]) -> tuple[int, int]:
    """The strongest that holds or is not enough, and the weakest above it that fails."""
    high = min((s for s, status in known.items() if status == FAILS), default=strongest + 1)
    return max((s for s, status in known.items() if status in (HOLDS, NOT_ENOUGH) and s < high), default=0), high


def _beating(strongest: int, known: Mapping[int, str]) -> tuple[int, int] | None:
    """Strength and effort of a ladder's next trial, where another ladder has set what is to be beaten."""
    if UNDER_WAY in known.values():
        return None
    high = min((s for s, status in known.items() if status == FAILS), default=strongest + 1)
    passed = (s for s, status in known.items() if status in (HOLDS, NOT_ENOUGH, NO_TIME) and s < high)
    low = max(passed, default=0)
    able = min((s for s, status in known.items() if status == ABLE and low < s < high), default=high)
    if low + 1 == high:
        return None
    if able == low + 1 or (low > 0 and known[low] == HOLDS):
        return low + 1, EFFORTS[0]
    return (low + able) // 2, PROBE


def _known(trials: Sequence[FrozenTrial], shape: str, effort: int) -> dict[int, str]:
    """What is known of each strength, as seen from an effort.

    What holds with less training holds with more; what fails with more fails with less; and what cannot even be timed
    fails in any case. The original's own shape is where every ladder begins, whatever came of its files.
    """
    known: dict[int, str] = {0: HOLDS}
    # What says less than a whole training does.
    weaker: dict[int, str] = {}
    for trial in trials:
        point = point_of(trial)
        if point is None or point[0] != shape:
            continue
        _, strength, own = point
        if strength == 0 and trial.state.is_finished():
            continue
        status = trial.user_attrs.get(STATUS)
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            if own in (effort, PROBE):
                weaker[strength] = UNDER_WAY
        elif (status in (HOLDS, NOT_ENOUGH) and own <= effort) or (status == FAILS and (own >= effort or own == PROBE)):
            known[strength] = status
        elif status == NO_TIME and own <= effort:
            weaker[strength] = NO_TIME
        elif status == ABLE and effort == EFFORTS[0]:
            weaker.setdefault(strength, ABLE)
    return weaker | known


def _between(strongest: int, known: Mapping[int, str], *, bisecting: bool) -> int | None:
    low, high = _bracket(strongest, known)
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
