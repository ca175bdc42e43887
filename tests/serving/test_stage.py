from __future__ import annotations

import pytest

from leanloop.core.errors import ServingError
from leanloop.core.settings import GoalSettings, ServingSettings
from leanloop.serving import stage, tune
from tests.serving.conftest import QUERIES, linear_spec

SETTINGS = ServingSettings(max_batch_size=8, instances=(2, 1), queue_delays_us=(0, 200))


def test_a_staged_model_is_checked_and_tuned(models):
    packages = models.linear(1.0), models.linear(2.0, "openvino")
    with stage(SETTINGS, linear_spec("m"), packages, threads=1) as staged:
        choice, trials = tune(staged, GoalSettings(batch_size=7, concurrency=4), SETTINGS, {"x": QUERIES}, seconds=0.2)
        single, one_trial = tune(staged, GoalSettings(), SETTINGS, {"x": QUERIES}, seconds=0.2)
    assert choice in [trial.choice for trial in trials]
    assert {(trial.choice.instances, trial.choice.queue_delay_us) for trial in trials} == {
        (1, 0), (1, 200), (2, 0), (2, 200),
    }  # fmt: skip
    assert all(
        (trial.measured.version, trial.measured.batch_size, trial.measured.concurrency) == (2, 7, 4) for trial in trials
    )
    assert (single.instances, single.queue_delay_us, len(one_trial)) == (1, 0, 1)


@pytest.mark.parametrize("fault", ["does not load", "answers wrongly"])
def test_a_bad_model_does_not_pass(models, fault):
    bad = models.broken() if fault == "does not load" else models.linear(3.0, claims=4.0)
    with (
        pytest.raises(ServingError, match=r"InvalidProtobuf|does not answer as"),
        stage(SETTINGS, linear_spec("m"), [models.linear(1.0), bad], threads=1),
    ):
        pass


def test_a_fixed_batch_axis_does_not_pass(models):
    import onnx

    package = models.linear(1.0)
    path = package.folder / "model.onnx"
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    with pytest.raises(ServingError), stage(SETTINGS, linear_spec("m"), [package], threads=1):
        pass
