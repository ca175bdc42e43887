from __future__ import annotations

from dataclasses import replace

import pytest

from leanloop.core.errors import ServingError
from leanloop.serving import Ports, TensorSpec, TritonClient, check_golden, recover
from tests.serving.conftest import CHOICE, QUERIES, linear_spec
from tests.serving.conftest import deploy as deploy_packages


@pytest.fixture
def spec(new_name):
    return linear_spec(new_name())


@pytest.fixture
def deploy(triton, spec):
    return lambda *packages, choice=CHOICE: deploy_packages(triton.client, triton.repository, spec, packages, choice)


def test_the_original_is_version_one_and_winners_follow(triton, spec, models, deploy):
    original, winner, better = models.linear(1.0), models.linear(2.0), models.linear(3.0, "openvino")
    first = deploy(original, winner)
    assert (first.version, first.previous) == (2, None)
    second = deploy(original, better)
    assert (second.version, second.previous) == (3, 2)
    assert second.versions == {1: original.artifact_id, 2: winner.artifact_id, 3: better.artifact_id}
    third = deploy(original, models.linear(4.0))
    assert sorted(third.versions) == [1, 3, 4]
    assert not triton.client.is_serving(spec.name, 2)
    assert triton.client.answer(spec.name, {"x": QUERIES}).version == 4


def test_the_same_again_changes_nothing(triton, spec, models, deploy):
    packages = models.linear(1.0), models.linear(2.0)
    assert deploy(*packages).version == deploy(*packages).version == 2
    assert triton.repository.versions(spec.name) == (1, 2)


def test_the_original_alone_may_answer(triton, spec, models, deploy):
    original = models.linear(1.0)
    assert deploy(original).version == 1
    deploy(original, models.linear(2.0))
    back = deploy(original)
    assert (back.version, back.previous, sorted(back.versions)) == (1, 2, [1])
    check_golden(triton.client, spec.name, original.golden, batch_size=8)


@pytest.mark.parametrize("fault", ["does not load", "answers wrongly"])
def test_a_failed_promotion_leaves_what_served(triton, spec, models, deploy, fault):
    original, champion = models.linear(1.0), models.linear(2.0)
    deploy(original, champion)
    config = (triton.repository.folder(spec.name) / "config.pbtxt").read_bytes()
    challenger = models.broken() if fault == "does not load" else models.linear(3.0, claims=4.0)
    with pytest.raises(ServingError, match="what served before serves on") as caught:
        deploy(original, challenger, choice=CHOICE.model_copy(update={"instances": 2, "queue_delay_us": 100}))
    assert ("InvalidProtobuf" if fault == "does not load" else "does not answer as") in str(caught.value)
    assert (triton.repository.folder(spec.name) / "config.pbtxt").read_bytes() == config
    assert triton.client.answer(spec.name, {"x": QUERIES}).version == 2
    check_golden(triton.client, spec.name, champion.golden, batch_size=8)
    assert deploy(original, models.linear(5.0)).version == 4, "a failed number is not used again"


@pytest.mark.parametrize("fault", ["does not load", "answers wrongly"])
def test_a_failed_first_promotion_leaves_nothing(triton, spec, models, deploy, fault):
    with pytest.raises(ServingError, match="not promoted"):
        deploy(models.broken() if fault == "does not load" else models.linear(3.0, claims=4.0))
    assert not triton.client.is_serving(spec.name)
    assert spec.name not in triton.repository.models()


def test_other_tensors_need_another_name(triton, spec, models, deploy):
    deploy(models.linear(1.0))
    other = spec.model_copy(update={"inputs": (TensorSpec(name="x", shape=(5,)),)})
    with pytest.raises(ServingError, match="another name"):
        deploy_packages(triton.client, triton.repository, other, [models.linear(1.0)])


def test_two_models_do_not_touch_each_other(triton, models, new_name):
    one, two = linear_spec(new_name()), linear_spec(new_name())
    first, second = models.linear(1.0), models.linear(2.0)
    deploy_packages(triton.client, triton.repository, one, [first])
    deploy_packages(triton.client, triton.repository, two, [second])
    with pytest.raises(ServingError):
        deploy_packages(triton.client, triton.repository, two, [second, models.broken()])
    check_golden(triton.client, one.name, first.golden, batch_size=8)
    check_golden(triton.client, two.name, second.golden, batch_size=8)


def test_a_server_that_is_gone_leaves_the_repository_as_it_was(triton, spec, models, deploy):
    original = models.linear(1.0)
    deploy(original)
    config = triton.repository.config(spec.name)
    ports = Ports.free()
    with (
        TritonClient(f"127.0.0.1:{ports.http}", f"127.0.0.1:{ports.grpc}") as nobody,
        pytest.raises(ServingError, match="could not be told to go back"),
    ):
        deploy_packages(nobody, triton.repository, spec, [original, models.linear(2.0)])
    assert triton.repository.config(spec.name) == config
    with pytest.raises(ServingError, match="on its way"):
        deploy(original, models.linear(2.0))
    assert [mended.did for mended in recover(triton.client, triton.repository, triton.journal)] == [
        "undid the promotion"
    ]
    assert deploy(original, models.linear(3.0)).version == 3


def test_golden_answers_of_another_shape_or_nan_fail(triton, spec, models, deploy):
    package = models.linear(1.0)
    deploy(package)
    golden = package.golden
    wrong_shape = replace(golden, answers={1: {"y": golden.outputs["y"][:, :2]}})
    with pytest.raises(ServingError, match="another shape"):
        check_golden(triton.client, spec.name, wrong_shape, batch_size=8)
    not_a_number = replace(golden, answers={1: {"y": golden.outputs["y"] * float("nan")}})
    with pytest.raises(ServingError, match="15 of 15"):
        check_golden(triton.client, spec.name, not_a_number, batch_size=8)
