"""What trains on for integers is tried last, and only where integers are to blame."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from leanloop.bundle import Bundle
from leanloop.core.errors import ChildError, TimeLimitError
from leanloop.core.files import write_json
from leanloop.core.settings import GoalSettings, Settings, load_settings
from leanloop.optimize import Recipe, Workshop
from leanloop.optimize import trial as trial_module
from leanloop.optimize.apply import Prefix, make_prefix
from leanloop.optimize.candidate import CURRENT, failed_before
from leanloop.optimize.objective import HOLDS_ACCURACY, LOSES
from leanloop.optimize.plan import FAILS, HOLDS, NO_TIME, Job, Outcome, Plan
from leanloop.optimize.search import run_plan
from leanloop.optimize.space import make_space
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config
from leanloop.optimize.techniques.quantisation_aware_training import QuantisationAwareTrainingConfig
from leanloop.optimize.trial import _seconds_of, fitted, run_trial
from tests.optimize.conftest import EXAMPLE

MENDING, INT8 = QuantisationAwareTrainingConfig(), OrtStaticInt8Config()
ROUGH = ChannelPruningConfig(ratio=0.875, round_to=4)
"""So much, and no training, that the float network loses too much, too."""


def _settings(*techniques: str) -> Settings:
    return load_settings(EXAMPLE / "params.yaml", {"optimize.techniques": list(techniques)})


def test_what_mends_comes_last_and_after_integers_alone(bundle: Bundle) -> None:
    space = make_space(
        bundle,
        _settings("channel_pruning", "quantisation_aware_training", "distillation", "nncf_int8", "openvino_bf16"),
    )
    assert [config.technique for config in space.training] == ["distillation"]
    for torch in ((), space.torch("channel_pruning", 3, 1)):
        for finish in space.finishes:
            recipes = space.recipes(torch, finish)
            mended = [place for place, recipe in enumerate(recipes) if recipe.torch != torch]
            integer = finish.configs[0] is not None and finish.configs[0].technique == "nncf_int8"
            assert mended == ([len(recipes) - 1] if integer else [])
            if integer:
                assert recipes[-1].torch == (*torch, *space.mending)


def test_where_nothing_else_trains_it_does(bundle: Bundle) -> None:
    space = make_space(bundle, _settings("channel_pruning", "quantisation_aware_training", "nncf_int8"))
    assert [config.technique for config in space.training] == ["quantisation_aware_training"]
    assert space.mending == ()


@pytest.mark.parametrize(
    ("torch", "reasons", "seconds", "tried", "status"),
    [
        ((), [HOLDS_ACCURACY], 0.0, 1, HOLDS),
        ((), [LOSES, HOLDS_ACCURACY], 0.0, 2, HOLDS),
        ((), [LOSES, LOSES], 0.0, 2, FAILS),
        ((ROUGH,), [LOSES], 0.0, 1, FAILS),
        ((), [LOSES], 1e9, 1, NO_TIME),
    ],
    ids=["integers do", "mended", "mended in vain", "floats lose as much", "no time"],
)
def test_it_is_tried_where_integers_alone_are_to_blame(
    torch: tuple[Any, ...],
    reasons: list[str],
    seconds: float,
    tried: int,
    status: str,
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Recipe] = []

    def finish(recipe: Recipe, job: Job, shop: Workshop) -> Any:
        made.append(recipe)
        reason = reasons[len(made) - 1]
        return trial_module.row(recipe, job, shop, state="complete", latency_ms=1.0, metric=0.9, reason=reason)

    monkeypatch.setattr(trial_module, "finish_one", finish)
    if seconds:
        monkeypatch.setattr(trial_module, "_mending_seconds", lambda *_: seconds)
    group = (Recipe("onnxruntime", (*torch, INT8)), Recipe("onnxruntime", (*torch, MENDING, INT8)))
    job = _job(workshop, tmp_path)
    plan = Plan(
        groups=(tuple(recipe.record() for recipe in group),), best=None, short_floor=0.0, deadline=time.time() + 600
    )
    outcome = Outcome.model_validate(run_trial(job.model_dump(mode="json"), plan.model_dump(mode="json")))
    assert made == list(group[:tried])
    assert outcome.status == status
    assert ("no time" in outcome.rows[-1].reason) == (seconds > 0)


def test_it_goes_on_from_the_training_that_is_kept(workshop: Workshop) -> None:
    first = DistillationConfig(epochs=2)
    alone = make_prefix((first,), workshop)
    both = make_prefix((first, MENDING), workshop)
    assert both.training_seconds > alone.training_seconds
    assert both.seconds_per_sample.keys() == {"distillation", "quantisation_aware_training"}
    assert both.seconds_per_sample["distillation"] == alone.seconds_per_sample["distillation"]


def test_each_training_is_expected_to_take_what_its_own_samples_do(workshop: Workshop) -> None:
    """It was all samples times the seconds of all trainings: twice too long for two."""
    configs = (DistillationConfig(epochs=6), QuantisationAwareTrainingConfig(epochs=2))
    short = Prefix(workshop.bundle.module(), 0.0, {"distillation": 0.001, "quantisation_aware_training": 0.002})
    samples = len(workshop.bundle.training_rows())
    assert _seconds_of(configs, short, workshop) == pytest.approx(samples * (6 * 0.001 + 2 * 0.002))


def test_what_cannot_be_shortened_is_left_out_and_its_group_stays() -> None:
    torch = (ChannelPruningConfig(), DistillationConfig(epochs=8))
    group = (Recipe("onnxruntime", (*torch, INT8)), Recipe("onnxruntime", (*torch, MENDING, INT8)))
    (cut,) = fitted([group], 0.5)
    assert [recipe.torch[1] for recipe in cut] == [DistillationConfig(epochs=4)]


def test_a_trial_whose_time_is_spent_is_not_begun_again(workshop: Workshop, tmp_path: Path) -> None:
    calls: list[float] = []

    class Slow:
        def call(self, *_: Any, folder: Path, timeout_seconds: float, **__: Any) -> Any:
            calls.append(timeout_seconds)
            write_json(folder / CURRENT, Recipe("onnxruntime", (INT8,)).record().model_dump(mode="json"))
            time.sleep(0.6)
            raise (ChildError if len(calls) == 1 else TimeLimitError)("A child process ended.")

    job = _job(workshop, tmp_path).model_copy(update={"timeout_seconds": 2.0})
    plan = Plan(groups=((Recipe("onnxruntime").record(),),), best=None, short_floor=None, deadline=0.0)
    with pytest.raises(TimeLimitError):
        run_plan(Slow(), job, plan)  # type: ignore[arg-type]
    assert calls == [pytest.approx(2.0, abs=0.1), pytest.approx(1.4, abs=0.2)]
    assert failed_before(Recipe("onnxruntime", (INT8,)), job, job.workshop()) is not None


def _job(workshop: Workshop, root: Path) -> Job:
    folder = root / "process"
    folder.mkdir()
    return Job(
        bundle=str(workshop.bundle.folder),
        store=str(root / "store"),
        goal=GoalSettings(max_accuracy_drop=0.02),
        threads=1,
        trial=0,
        folder=str(folder),
    )
