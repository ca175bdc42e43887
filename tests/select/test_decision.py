"""The verdict on benchmarks where the right answer is known."""

from __future__ import annotations

import pytest

from leanloop import select


def checks_of(verdict, variant_id):
    variant = next(variant for variant in verdict.variants if variant.id == variant_id)
    return {check.name: check for check in variant.checks}


def decide(case, goal, confidence=0.95):
    return select.decide(case.benchmark(), case.evidence(), goal, confidence)


def test_a_clear_winner(case, spec, goal) -> None:
    verdict = decide(case(spec("fast", 0.1), spec("slower", 0.2)), goal)
    assert verdict.winner == "fast"
    speedup = verdict.speedup["original-pytorch-fp32"]
    assert speedup.low < speedup.value < speedup.high
    assert speedup.value == pytest.approx(30, rel=0.05)
    assert verdict.speedup["original-onnxruntime-fp32"].value == pytest.approx(10, rel=0.05)
    assert "times faster" in verdict.reason
    assert "shown to be within" in verdict.reason or "a tie with the original" in verdict.reason


def test_nothing_better_keeps_the_original_and_says_why(case, spec, goal) -> None:
    verdict = decide(case(spec("slow", 1.5)), goal)
    assert verdict.winner is None
    assert verdict.reason.startswith("nothing better, keep the original:")
    assert "slow" in verdict.reason
    assert "worse" in verdict.reason
    assert verdict.speedup == {}


def test_no_candidates_at_all(case, goal) -> None:
    verdict = decide(case(), goal)
    assert verdict.winner is None
    assert "no candidate" in verdict.reason


def test_faster_than_pytorch_but_not_than_the_best_baseline_is_not_enough(case, spec, goal) -> None:
    assert decide(case(spec("middling", 2.0)), goal).winner is None


def test_noisy_improvement_is_not_claimed(case, spec, goal) -> None:
    verdict = decide(case(spec("noisy", 0.98, noise=0.3)), goal)
    assert verdict.winner is None
    assert checks_of(verdict, "noisy")["objective"].note.endswith("a tie.")


def test_lost_accuracy_is_refused_and_the_nearest_is_named(case, spec, goal) -> None:
    verdict = decide(case(spec("bad", 0.1, wrong=range(200)), spec("less-bad", 0.2, wrong=range(100))), goal)
    assert verdict.winner is None
    assert "no candidate keeps the accuracy" in verdict.reason
    assert "less-bad" in verdict.reason


def test_a_tie_on_the_objective_is_broken_by_the_metric(case, spec, goal) -> None:
    verdict = decide(
        case(
            spec("a-hair-faster", 0.100, wrong=(0, 1)),
            spec("righter", 0.1005, size_bytes=200_000),
            spec("slower-and-right", 0.3),
        ),
        goal,
    )
    assert verdict.winner == "righter"
    assert "Tied on p50 latency with a-hair-faster [a-hair-f]" in verdict.reason


def test_a_tie_on_objective_and_metric_is_broken_by_size(case, spec, goal) -> None:
    verdict = decide(case(spec("large", 0.1, size_bytes=200_000), spec("small", 0.1005, size_bytes=50_000)), goal)
    assert verdict.winner == "small"


def test_a_collapsed_class_is_refused_although_the_metric_is_within_the_goal(case, spec, goal) -> None:
    lenient = goal.model_copy(update={"max_accuracy_drop": 0.1})
    # 72 of 800 samples: a drop of 9 %, all of it in one class of 200.
    verdict = decide(case(spec("blind", 0.1, wrong=range(0, 288, 4)), samples=800), lenient)
    checks = checks_of(verdict, "blind")
    assert checks["metric"].value >= checks["metric"].limit
    assert not checks["classes"].passed
    assert "t-shirt" in checks["classes"].note
    assert verdict.winner is None


def test_one_lost_sample_of_a_tiny_class_is_noise(case, spec, goal) -> None:
    lenient = goal.model_copy(update={"max_accuracy_drop": 0.1})
    verdict = decide(case(spec("fine", 0.1, wrong=(0,)), samples=16), lenient)
    assert checks_of(verdict, "fine")["classes"].passed
    assert verdict.winner == "fine"


def test_surely_worse_and_not_surely_within_the_goal_is_refused(case, spec, goal) -> None:
    # 36 of 4000 lost, none gained: 0.9 points against 1.0 allowed, and the bounds leave both sides open.
    verdict = decide(case(spec("borderline", 0.1, wrong=range(36)), samples=4000), goal)
    check = checks_of(verdict, "borderline")["metric"]
    assert check.value >= check.limit
    assert not check.passed
    assert verdict.winner is None


def test_a_small_loss_on_a_large_set_is_shown_to_be_within_the_goal(case, spec, goal) -> None:
    verdict = decide(case(spec("good", 0.1, wrong=range(12)), samples=4000), goal)
    assert "shown to be within the goal" in checks_of(verdict, "good")["metric"].note
    assert verdict.winner == "good"


def test_a_size_that_fits_wins_although_a_faster_one_does_not_fit(case, spec, goal) -> None:
    limited = goal.model_copy(update={"max_size_bytes": 60_000})
    verdict = decide(case(spec("fast", 0.1, size_bytes=100_000), spec("small", 0.4, size_bytes=50_000)), limited)
    assert verdict.winner == "small"


def test_with_constraints_that_no_baseline_meets_the_one_that_fits_wins_even_if_slower(case, spec, goal) -> None:
    limited = goal.model_copy(update={"max_size_bytes": 60_000})
    verdict = decide(case(spec("small-and-slow", 2.0, size_bytes=50_000)), limited)
    assert verdict.winner == "small-and-slow"
    assert "no fp32 baseline meets the constraints" in verdict.reason


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        ({"max_size_bytes": 10_000}, "the smallest that keeps the accuracy is small [small]."),
        ({"max_memory_bytes": 1_000}, "the leanest that keeps the accuracy is small [small]."),
        ({"max_latency_ms": 0.01}, "the fastest that keeps the accuracy is fast [fast]."),
    ],
)
def test_an_impossible_constraint_names_the_nearest_that_keeps_the_accuracy(
    case, spec, goal, constraint, words
) -> None:
    variants = (
        spec("fast", 0.1),
        spec("small", 0.4, size_bytes=50_000, memory_bytes=5_000_000),
        spec("tiny-but-wrong", 0.05, size_bytes=9_000, memory_bytes=900, wrong=range(200)),
    )
    verdict = decide(case(*variants), goal.model_copy(update=constraint))
    assert verdict.winner is None
    assert words in verdict.reason


@pytest.mark.parametrize("objective", ["latency_p50", "latency_p99", "size", "cost"])
def test_every_objective_finds_the_variant_that_is_best_in_all(case, spec, goal, objective) -> None:
    verdict = decide(
        case(spec("best", 0.1, size_bytes=40_000), spec("second", 0.3, size_bytes=90_000)),
        goal.model_copy(update={"minimise": objective}),
    )
    assert verdict.winner == "best"
    assert verdict.objective == objective


def test_front_holds_what_nothing_beats_in_everything(case, spec, goal) -> None:
    verdict = decide(case(spec("fast", 0.1), spec("beaten", 0.2, size_bytes=200_000, memory_bytes=20_000_000)), goal)
    front = {variant.id for variant in verdict.variants if variant.on_pareto_front}
    assert "fast" in front
    assert "beaten" not in front


def test_a_baseline_never_wins(case, goal) -> None:
    verdict = decide(case(), goal)
    assert verdict.winner is None
    assert all("objective" not in checks_of(verdict, variant.id) for variant in verdict.variants)


def test_the_original_is_the_one_in_its_own_runtime(case, spec) -> None:
    assert case().benchmark().original.id == "original-pytorch-fp32"
    onnx = spec("original-onnxruntime-fp32", 1.0, baseline=True)
    other = spec("original-openvino-fp32", 0.8, baseline=True, runtime="openvino")
    assert case(baselines=(other, onnx)).benchmark().original.id == "original-onnxruntime-fp32"
