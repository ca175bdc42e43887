"""The search's choices, on a simulated frontier: what holds below it and fails above it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from leanloop.bundle import Bundle
from leanloop.core.settings import GoalSettings
from leanloop.core.store import Store
from leanloop.optimize.plan import ABLE, FAILS, HOLDS, NO_TIME, NOT_ENOUGH
from leanloop.optimize.sampler import (
    MARGIN,
    STATUS,
    FrontierSampler,
    as_params,
    distributions,
    next_point,
    point_of,
)
from leanloop.optimize.space import PROBE, Space
from leanloop.optimize.study import WORKER, Clock, ask, left_behind, mine, release_dead, union_seconds
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.optimize.warm_start import recall, remember

SHAPES = tuple((ChannelPruningConfig(ratio=step / 16),) for step in range(1, 16))
SPACE = Space({"channel_pruning": SHAPES}, (DistillationConfig(),), (), {})
UNTRAINABLE = Space({"channel_pruning": SHAPES}, (), (), {})


TWO = Space({"equal": SHAPES, "narrow": SHAPES}, (), (), {})


def _study(space: Space, file: Path | None = None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(file))) if file else None
    return optuna.create_study(storage=storage, study_name="s", load_if_exists=True, sampler=FrontierSampler(space))


def _tell(study: optuna.Study, trial: optuna.Trial, status: str) -> None:
    trial.set_user_attr(STATUS, status)
    study.tell(trial, 1.0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 15))
def test_bisection_finds_the_frontier_in_few_trials(frontier: int) -> None:
    study, tried = _study(UNTRAINABLE), []
    while (trial := ask(study, UNTRAINABLE, 0)) is not None:
        tried.append(trial.params["strength"])
        _tell(study, trial, HOLDS if tried[-1] <= frontier else FAILS)
    assert len(tried) == len(set(tried)) <= 5
    if frontier:
        assert frontier in tried
    if frontier < 15:
        assert frontier + 1 in tried


@pytest.mark.parametrize("space", [UNTRAINABLE, SPACE])
def test_an_original_whose_files_all_fail_ends_no_search(space: Space) -> None:
    study, tried = _study(space), []
    while (trial := ask(study, space, 0)) is not None:
        tried.append(trial.params["strength"])
        _tell(study, trial, FAILS if trial.params["strength"] in (0, *range(5, 16)) else HOLDS)
    assert 4 in tried


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 15), st.integers(0, 2))
def test_more_training_walks_on_from_the_frontier(frontier: int, gain: int) -> None:
    study, best = _study(SPACE), 0
    while (trial := ask(study, SPACE, 0)) is not None:
        _, strength, effort = point_of(trial) or pytest.fail("no point")
        good = strength <= frontier + (gain if effort == 2 else 0)
        best = max(best, strength if good else 0)
        _tell(study, trial, HOLDS if good else FAILS)
    assert best == min(15, frontier + gain)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 15), st.integers(1, 16), st.integers(0, 15))
def test_another_ladder_is_probed_and_trained_from_its_mildest_shape_that_is_faster(
    frontier: int, faster: int, bears: int
) -> None:
    """The second ladder is faster than the best from rung ``faster`` on, and holds the accuracy up to ``bears``."""
    study = _study(TWO)
    probed, trained = [], []
    while (trial := ask(study, TWO, 0)) is not None:
        shape, strength, effort = point_of(trial) or pytest.fail("no point")
        if shape == "equal":
            assert effort != PROBE
            _tell(study, trial, HOLDS if strength <= frontier else FAILS)
        elif effort == PROBE:
            probed.append(strength)
            _tell(study, trial, ABLE if strength >= faster else NOT_ENOUGH)
        else:
            trained.append(strength)
            _tell(study, trial, NOT_ENOUGH if strength < faster else HOLDS if strength <= bears else FAILS)
    assert len(probed) <= 5
    wanted = range(faster, 16)
    assert trained == [rung for rung in wanted if rung <= max(bears + 1, faster)]


@settings(deadline=None, max_examples=40)
@given(st.floats(0.5, 15), st.floats(0.001, 0.1), st.floats(1, 3))
def test_the_line_between_two_margins_leads_to_the_frontier(zero: float, slope: float, bend: float) -> None:
    """Whatever the curve, the frontier is found; where it is a line, in four trials."""
    study, tried = _study(UNTRAINABLE), []
    while (trial := ask(study, UNTRAINABLE, 0)) is not None:
        strength = trial.params["strength"]
        tried.append(strength)
        away = (zero - strength) / zero
        trial.set_user_attr(MARGIN, slope * (away if bend < 1.5 else abs(away) ** bend * (1 if away > 0 else -1)))
        _tell(study, trial, HOLDS if strength <= zero else FAILS)
    frontier = int(zero)
    assert len(tried) == len(set(tried))
    assert frontier in {0, *tried}
    assert frontier == 15 or frontier + 1 in tried
    if bend < 1.5 and 8 < frontier < 12:
        assert len(tried) <= 4


def _tried(outcome: Callable[[int, int], float | None], original: float = 0.01) -> list[tuple[int, int]]:
    """Strength and effort of all trials of one worker: by the margin they hold, or fail; without one they just fail."""
    study, tried = _study(SPACE), []
    study.enqueue_trial(as_params(("channel_pruning", 0, 1)))
    while (trial := ask(study, SPACE, 0)) is not None:
        _, strength, effort = point_of(trial) or pytest.fail("no point")
        margin = outcome(strength, effort) if strength else original
        tried.append((strength, effort))
        trial.set_user_attr(MARGIN, margin)
        _tell(study, trial, HOLDS if margin is not None and margin >= 0 else FAILS)
    return tried[1:]


MLP = {8: 0.0038, 9: 0.0002, 10: -0.0022, 11: -0.0020, 12: -0.0055}
MLP_MORE = {9: 0.0002, 10: 0.0012, 11: -0.0002, 12: -0.0026}
"""Margins of the MLP on Fashion-MNIST by ratio in sixteenths, with two and with four epochs."""


def _mlp(strength: int, effort: int) -> float:
    return (MLP if effort == 1 else MLP_MORE).get(strength, -0.02)


def test_once_the_limit_is_known_shapes_near_it_are_trained_more() -> None:
    """The usual training was spent on shapes that only more of it lets hold."""
    assert _tried(_mlp)[:4] == [(8, 1), (12, 1), (10, 2), (11, 2)], "the frontier, and that it is one"


@settings(deadline=None, max_examples=100)
@given(st.floats(7, 12), st.floats(0.001, 0.01), st.floats(0.1, 3.0))
def test_the_frontier_of_more_training_is_found_by_few_trainings(zero: float, slope: float, gain: float) -> None:
    """Margins fall along a line, which more training shifts by some rungs."""
    tried = _tried(lambda strength, effort: slope * (zero + gain * (effort - 1) - strength), original=1.0)
    frontier = int(zero + gain)
    held = [strength for strength, effort in tried if strength <= zero + gain * (effort - 1)]
    assert max(held) == frontier
    assert frontier + 1 in {strength for strength, effort in tried if effort == 2 or strength > zero + gain}
    place = next(place for place, (strength, _) in enumerate(tried) if strength == frontier)
    assert sum(effort for _, effort in tried[: place + 1]) <= 8, "in units of the usual training"


def test_more_training_is_not_spent_across_a_cliff() -> None:
    cliff = {8: 0.004, 9: 0.003, 10: -0.09, 12: -0.1}
    assert _tried(lambda strength, _: cliff.get(strength, 0.004 if strength < 8 else -0.1))[:3] == [
        (8, 1),
        (12, 1),
        (9, 1),
    ]


def test_a_tie_tells_nothing_of_the_distance_to_the_limit() -> None:
    tried = _tried(lambda strength, _: 0.0 if strength <= 10 else -0.026, original=0.02)
    assert tried[:4] == [(8, 1), (12, 1), (10, 1), (11, 1)]


def test_what_failed_for_good_ends_the_way_up() -> None:
    """A training that was hopeless, or broke, has no margin."""
    more = {11: 0.002, 12: None}
    tried = _tried(lambda strength, effort: more.get(strength) if effort == 2 else {8: 0.004, 12: -0.002}.get(strength))
    assert (12, 2) in tried
    assert 13 not in {strength for strength, _ in tried}


def test_what_holds_with_more_is_not_trained_less_when_time_is_short() -> None:
    study, tried = _study(SPACE), []
    study.enqueue_trial(as_params(("channel_pruning", 0, 1)))
    found = {(0, 1): 0.01, (8, 1): 0.004, (12, 1): -0.004, (11, 2): 0.003}
    while (trial := ask(study, SPACE, 0)) is not None:
        _, strength, effort = point_of(trial) or pytest.fail("no point")
        tried.append((strength, effort))
        margin = found.get((strength, effort))
        trial.set_user_attr(MARGIN, margin)
        _tell(study, trial, NO_TIME if margin is None else HOLDS if margin >= 0 else FAILS)
    assert tried[:5] == [*found, (12, 2)]
    assert {effort for _, effort in tried[5:]} <= {2}


def test_two_workers_do_not_train_one_shape_twice(tmp_path: Path) -> None:
    study = _study(SPACE, tmp_path / "journal")
    for strength, margin in ((0, 0.0091), (8, 0.0038), (12, -0.0055)):
        study.enqueue_trial(as_params(("channel_pruning", strength, 1)))
        trial = ask(study, SPACE, 0)
        assert trial is not None
        trial.set_user_attr(MARGIN, margin)
        _tell(study, trial, HOLDS if margin >= 0 else FAILS)
    points = [point_of(trial) for worker in (0, 1) if (trial := ask(study, SPACE, worker)) is not None]
    assert points[0] == ("channel_pruning", 10, 2)
    assert points[1:] in ([], [("channel_pruning", 9, 1)], [("channel_pruning", 11, 1)])


def test_a_search_of_the_same_family_begins_with_the_effort_that_held(bundle: Bundle, tmp_path: Path) -> None:
    store, goal = Store(str(tmp_path)), GoalSettings()
    for trained in ([(8, 1), (12, 1), (10, 2), (11, 2)], [(10, 2), (11, 2)]):
        study, tried = _study(SPACE), []
        study.enqueue_trial(as_params(("channel_pruning", 0, 1)))
        recall(study, SPACE, bundle, goal, store)
        while (trial := ask(study, SPACE, 0)) is not None:
            _, strength, effort = point_of(trial) or pytest.fail("no point")
            tried.append((strength, effort))
            trial.set_user_attr(MARGIN, _mlp(strength, effort) if strength else 0.0091)
            _tell(study, trial, HOLDS if trial.user_attrs[MARGIN] >= 0 else FAILS)
        remember(study, SPACE, bundle, goal, store)
        assert tried[1 : len(trained) + 1] == trained
    assert tried[1:] == trained, "nothing else is worth a training"


HARD = Space(dict.fromkeys(("equal", "narrow", "short"), SHAPES[:7]), (DistillationConfig(),), (), {})


def _trained(outcome: Callable[[str, int], tuple[float, str]]) -> list[tuple[str, int]]:
    """Ladder and effort of each training of a search: what is timed is able, the original is 0.01 above the limit."""
    study, trained = _study(HARD), []
    study.enqueue_trial(as_params(("equal", 0, 1)))
    while (trial := ask(study, HARD, 0)) is not None:
        shape, strength, effort = point_of(trial) or pytest.fail("no point")
        if effort == PROBE:
            _tell(study, trial, ABLE)
            continue
        trained.append((shape, effort))
        margin, status = outcome(shape, strength) if strength else (0.01, HOLDS)
        trial.set_user_attr(MARGIN, margin)
        _tell(study, trial, status)
    return trained


def test_where_nothing_holds_the_narrowest_failure_has_more_training_before_each_further_ladder() -> None:
    """Seen on Fashion-MNIST: nine ladders had the usual training, and nothing was left for a narrow failure."""
    margins = {"equal": -0.004, "narrow": -0.002, "short": -0.001}
    trained = _trained(lambda shape, strength: (margins[shape] * strength, FAILS))
    turns = [trained.index(("equal", 2)), trained.index(("narrow", 1))]
    assert turns == sorted(turns), "more training before the second ladder"
    assert trained.index(("narrow", 2)) < trained.index(("short", 1)), "and again before the third"
    before_second = trained[: trained.index(("narrow", 1))]
    assert before_second.count(("equal", 2)) == 1, "one turn for a ladder"


@pytest.mark.parametrize(
    ("margin", "holds"), [(-0.02, False), (-0.004, True)], ids=["too far below the limit", "something holds"]
)
def test_more_training_waits_where_it_would_not_help_or_is_not_needed(margin: float, holds: bool) -> None:
    trained = _trained(lambda _, strength: (margin, HOLDS if holds and strength == 1 else FAILS))
    assert max(trained.index((shape, 1)) for shape in HARD.shapes) < trained.index(("equal", 2))


def test_where_the_limit_is_expected_is_one_workers_and_the_other_goes_to_another_ladder(tmp_path: Path) -> None:
    study = _study(TWO, tmp_path / "journal")
    for strength, margin, status in ((8, 0.005, HOLDS), (12, -0.015, FAILS)):
        study.enqueue_trial(as_params(("equal", strength, 1)))
        trial = ask(study, TWO, 0)
        assert trial is not None
        trial.set_user_attr(MARGIN, margin)
        _tell(study, trial, status)
    points = [point_of(trial) for worker in (0, 1) if (trial := ask(study, TWO, worker)) is not None]
    assert points == [("equal", 9, 1), ("narrow", 8, PROBE)]


def test_a_ladder_is_one_workers_at_a_time(tmp_path: Path) -> None:
    study = _study(TWO, tmp_path / "journal")
    for trial in iter(lambda: ask(study, TWO, 0), None):
        shape, _, effort = point_of(trial) or pytest.fail("no point")
        if shape == "narrow":
            break
        _tell(study, trial, FAILS)
    assert effort == PROBE
    assert ask(study, TWO, 1) is None
    _tell(study, trial, ABLE)
    again = ask(study, TWO, 1)
    assert again is not None
    assert again.params["shape"] == "narrow"


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32).map(random.Random))
@example(random.Random(0))
def test_whatever_trials_find_none_is_asked_for_twice_and_the_search_ends(chance: random.Random) -> None:
    three = Space({"equal": SHAPES, "narrow": SHAPES[:7], "short": SHAPES[:3]}, (DistillationConfig(),), (), {})
    study, asked, running = _study(three), [], []
    while True:
        trial = ask(study, three, 0) if len(running) < 3 else None
        if trial is not None:
            asked.append(point_of(trial))
            running.append(trial)
        elif not running:
            break
        else:
            ended = running.pop(chance.randrange(len(running)))
            _, _, effort = point_of(ended) or pytest.fail("no point")
            statuses = (ABLE, NOT_ENOUGH, FAILS) if effort == PROBE else (HOLDS, FAILS, NOT_ENOUGH, NO_TIME)
            ended.set_user_attr(MARGIN, chance.choice((None, 0.0, chance.uniform(-1, 1))))
            _tell(study, ended, chance.choice(statuses))
    assert len(asked) == len(set(asked))


def test_what_is_not_enough_sends_the_search_on() -> None:
    study = _study(UNTRAINABLE)
    trial = ask(study, UNTRAINABLE, 0)
    assert trial is not None
    first = trial.params["strength"]
    _tell(study, trial, NOT_ENOUGH)
    while (trial := ask(study, UNTRAINABLE, 0)) is not None:
        assert trial.params["strength"] > first
        _tell(study, trial, HOLDS)


def test_without_time_only_cheaper_shapes_are_tried() -> None:
    study, tried = _study(UNTRAINABLE), []
    while (trial := ask(study, UNTRAINABLE, 0)) is not None:
        tried.append(trial.params["strength"])
        trial.set_user_attr(STATUS, NO_TIME)
        study.tell(trial, state=TrialState.PRUNED)
    assert tried == sorted(tried)
    assert len(tried) <= 5


def test_two_workers_share_a_study_without_duplicates(tmp_path: Path) -> None:
    studies = [_study(UNTRAINABLE, tmp_path / "journal") for _ in range(2)]
    running: list[optuna.Trial | None] = [ask(study, UNTRAINABLE, worker) for worker, study in enumerate(studies)]
    while any(running):
        for worker, study in enumerate(studies):
            trial = running[worker]
            if trial is not None:
                _tell(study, trial, HOLDS if trial.params["strength"] <= 9 else FAILS)
                running[worker] = ask(study, UNTRAINABLE, worker)
    points = [point_of(trial) for trial in studies[0].get_trials()]
    assert len(points) == len(set(points))
    assert {trial.user_attrs[WORKER] for trial in studies[0].get_trials()} == {0, 1}
    assert {9, 10} <= {point[1] for point in points if point}


def test_a_point_drawn_twice_is_given_up_by_the_later(tmp_path: Path) -> None:
    study = _study(UNTRAINABLE, tmp_path / "journal")
    study.enqueue_trial(as_params(("channel_pruning", 0, 1)))
    study.enqueue_trial(as_params(("channel_pruning", 0, 1)))
    first, second = ask(study, UNTRAINABLE, 0), ask(study, UNTRAINABLE, 1)
    assert first is not None
    assert second is not None
    assert (first.params["strength"], second.params["strength"]) == (0, 8)
    assert [trial.state for trial in study.get_trials()].count(TrialState.PRUNED) == 1


def test_a_dead_workers_trial_is_taken_up_again(tmp_path: Path) -> None:
    study = _study(UNTRAINABLE, tmp_path / "journal")
    ended, left, others = (ask(study, UNTRAINABLE, worker) for worker in (0, 0, 1))
    assert ended is not None
    assert left is not None
    assert others is not None
    _tell(study, ended, HOLDS)
    again = _study(UNTRAINABLE, tmp_path / "journal")
    release_dead(again, left_behind(0, workers=2))
    states = {trial.number: trial.state for trial in again.get_trials()}
    assert states[ended.number] == TrialState.COMPLETE
    assert states[left.number] == TrialState.FAIL
    assert states[others.number] == TrialState.RUNNING
    taken = ask(again, UNTRAINABLE, 0)
    assert taken is not None
    assert point_of(taken) == point_of(left)
    assert [trial.number for trial in mine(again, 0)] == [ended.number]


def test_workers_that_are_no_longer_there_are_cleared_by_the_first(tmp_path: Path) -> None:
    study = _study(UNTRAINABLE, tmp_path / "journal")
    trial = ask(study, UNTRAINABLE, 3)
    assert trial is not None
    release_dead(study, left_behind(1, workers=2))
    assert study.get_trials()[trial.number].state == TrialState.RUNNING
    release_dead(study, left_behind(0, workers=2))
    assert study.get_trials()[trial.number].state == TrialState.FAIL


def test_every_point_is_within_the_parameters() -> None:
    point = next_point(SPACE, [])
    assert point is not None
    space = distributions(SPACE)
    for name, value in as_params(point).items():
        assert space[name]._contains(space[name].to_internal_repr(value))


intervals = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair))))


@given(intervals)
def test_time_is_the_union_of_all_sessions(sessions: list[tuple[int, int]]) -> None:
    covered = {second for start, end in sessions for second in range(start, end)}
    assert union_seconds([(float(start), float(end)) for start, end in sessions]) == len(covered)


def test_time_spent_before_a_crash_counts_and_the_pause_does_not(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put_json("studies/s/sessions/killed.json", {"started": 1000.0, "last": 1040.0})
    clock = Clock(store, "s", 60.0)
    assert clock.spent() == pytest.approx(40.0, abs=2.0)
    assert clock.left() == pytest.approx(20.0, abs=2.0)
