"""Champion against challenger, on constructed benchmarks: the first 1,000 samples are golden, the last 1,000 recent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from leanloop.core.contracts import Aim, Challenge, Verdict
from leanloop.core.settings import GoalSettings
from leanloop.select.decision import KEEP_CHAMPION, decide
from tests.select.cases import Case, Spec

SAMPLES = 2_000
GOLDEN, RECENT = range(1_000), range(1_000, SAMPLES)
CHAMPION = "champion-0123"


def judged(
    aim: Aim,
    champion: Sequence[int],
    challenger: Sequence[int],
    *others: Spec,
    champion_ms: float = 0.2,
    challenger_ms: float = 0.2,
) -> Verdict:
    """The verdict on a challenger, and others; all are told by the samples that they get wrong."""
    specs = (Spec(CHAMPION, champion_ms, wrong=champion), Spec("challenger", challenger_ms, wrong=challenger))
    case = Case((*specs, *others), samples=SAMPLES)
    evidence = replace(case.evidence(), recent=np.arange(SAMPLES) >= len(GOLDEN))
    goal = GoalSettings(max_accuracy_drop=0.1)
    return decide(case.benchmark(), evidence, goal, 0.95, Challenge(champion=CHAMPION, aim=aim))


def failed(verdict: Verdict) -> set[str]:
    return {
        check.name for row in verdict.variants if row.id == "challenger" for check in row.checks if not check.passed
    }


def test_who_wins_back_recent_samples_and_keeps_the_golden_ones_wins() -> None:
    verdict = judged("accuracy", champion=RECENT[:300], challenger=RECENT[:40])
    assert verdict.winner == "challenger"
    assert "On 1,000 recent samples +26.00 points against the champion" in verdict.reason
    assert "On 1,000 golden samples +0.00 points" in verdict.reason


@pytest.mark.parametrize(
    ("aim", "champion", "challenger", "latency_ms", "why"),
    [
        ("accuracy", RECENT[:40], RECENT[:40], 0.2, {"recent"}),
        ("accuracy", RECENT[:40], RECENT[1:41], 0.2, {"recent"}),
        ("agreement", RECENT[:40], RECENT[:60], 0.2, {"recent"}),
        ("accuracy", RECENT[:300], [*GOLDEN[:30], *RECENT[:40]], 0.2, {"golden"}),
        ("accuracy", RECENT[:300], RECENT[:40], 0.25, {"speed"}),
        ("latency", RECENT[:40], RECENT[:40], 0.2, {"speed"}),
        ("latency", RECENT[:40], RECENT[:90], 0.1, {"recent"}),
    ],
)
def test_who_is_not_better_where_it_must_be_or_is_worse_elsewhere_does_not(
    aim: Aim, champion: Sequence[int], challenger: Sequence[int], latency_ms: float, why: set[str]
) -> None:
    verdict = judged(aim, champion, challenger, challenger_ms=latency_ms)
    assert failed(verdict) == why
    assert verdict.winner is None
    assert verdict.reason.startswith(KEEP_CHAMPION)


def test_who_is_faster_and_as_right_wins_a_latency_challenge() -> None:
    verdict = judged("latency", champion=RECENT[:40], challenger=RECENT[:42], challenger_ms=0.1)
    assert verdict.winner == "challenger"


def test_what_no_small_model_learns_does_not_leave_the_worse_champion_in_place() -> None:
    slower = Spec("slower", 0.21, wrong=RECENT[:280])
    verdict = judged("accuracy", RECENT[:600], RECENT[:300], slower)
    assert verdict.winner == "slower", "the one that is most right, not the fastest"
    assert "Golden accuracy 100.00 %" in verdict.reason
    assert (
        "together no candidate holds the goal; this one is the nearest. Validation accuracy 86.00 %" in verdict.reason
    )


def test_who_holds_the_goal_on_all_samples_is_preferred_to_who_is_faster() -> None:
    verdict = judged("accuracy", RECENT[:600], RECENT[:300], Spec("whole", 0.21, wrong=RECENT[:100]))
    assert verdict.winner == "whole"
    assert "nearest" not in verdict.reason


@pytest.mark.parametrize(
    ("aim", "challenger"), [("accuracy", [*GOLDEN[:120], *RECENT[:40]]), ("latency", RECENT[:300])]
)
def test_the_goal_holds_on_golden_samples_and_where_speed_is_asked_for_on_all(
    aim: Aim, challenger: Sequence[int]
) -> None:
    verdict = judged(aim, RECENT[:300], challenger, challenger_ms=0.1)
    assert "metric" in failed(verdict)
    assert verdict.winner is None


def test_a_few_golden_samples_more_or_less_are_a_tie() -> None:
    assert judged("accuracy", champion=RECENT[:300], challenger=[*GOLDEN[:5], *RECENT[:40]]).winner == "challenger"


@pytest.mark.parametrize(
    ("lost", "gained", "passes", "why"),
    [
        (5, 0, True, "shown to lose less than a point"),
        (9, 2, False, "surely worse, and not surely by less than a point"),
        (30, 22, True, "a tie"),
        (30, 19, False, "lost more than a point"),
    ],
)
def test_a_loss_on_golden_samples_is_within_a_point_for_sure_or_cannot_be_told(
    lost: int, gained: int, passes: bool, why: str
) -> None:
    champion, challenger = [*GOLDEN[-gained:][:gained], *RECENT[:300]], [*GOLDEN[:lost], *RECENT[:40]]
    verdict = judged("accuracy", champion=champion, challenger=challenger)
    (golden,) = (check for row in verdict.variants for check in row.checks if check.name == "golden")
    assert golden.passed == passes
    assert why in golden.note
    assert (verdict.winner == "challenger") == passes


def test_the_champion_itself_never_wins() -> None:
    verdict = judged("accuracy", champion=(), challenger=RECENT[:300], champion_ms=0.1)
    assert verdict.winner is None


def test_a_plain_run_has_no_challenge() -> None:
    case = Case((Spec(CHAMPION, 0.2),), samples=SAMPLES)
    verdict = decide(case.benchmark(), case.evidence(), GoalSettings(), 0.95)
    assert verdict.winner == CHAMPION
    assert all(check.name not in ("golden", "recent", "speed") for row in verdict.variants for check in row.checks)
