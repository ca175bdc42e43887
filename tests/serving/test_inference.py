from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from leanloop.core.contracts import CallPlan
from leanloop.core.errors import ServingError
from leanloop.serving import AsyncTritonClient, ModelConfig, Ports, TritonClient, check_golden
from tests.serving.conftest import CHOICE, QUERIES, linear_spec


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_both_runtimes_answer_by_both_protocols(triton, models, new_name, runtime, protocol):
    spec, package = linear_spec(new_name()), models.linear(2.0, runtime)
    triton.serve(spec, package)
    with triton.connect(protocol) as client:
        check_golden(client, spec.name, package.golden, batch_size=8)
        assert client.answer(spec.name, {"x": QUERIES}).version == 1
        assert client.is_serving(spec.name)


@pytest.mark.parametrize(
    ("runtime", "plans"),
    [
        ("onnxruntime", {4: CallPlan(threads=2)}),
        ("openvino", {1: CallPlan(threads=2), 4: CallPlan(threads=2, streams=2)}),
    ],
)
def test_calls_go_by_the_plan_of_their_batch_size(triton, models, new_name, runtime, plans):
    spec, package = linear_spec(new_name()), models.linear(2.0, runtime)
    files = package.files.model_copy(update={"plans": plans})
    triton.serve(spec, replace(package, files=files, batch_sizes=(1, 4)))
    kept = triton.repository.package(spec.name, 1, package.golden)
    assert kept.files.plans == plans
    for count in (1, 3, 4, 5):
        answer = triton.client.infer(spec.name, {"x": QUERIES[:count]})
        np.testing.assert_allclose(answer["y"], package.golden.outputs["y"][:count], atol=1e-5)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_two_inputs_and_outputs_of_other_types(triton, models, protocol):
    spec, package = models.mixed()
    triton.serve(spec, package)
    with triton.connect(protocol) as client:
        answer = client.infer("mixed", package.golden.inputs)
        check_golden(client, "mixed", package.golden, batch_size=8)
    assert answer["looked_up"].dtype == np.int64
    assert answer["brightness"].shape == (3, 1), "one number per sample travels as an axis of one"


def test_versions_are_asked_by_number_and_the_highest_by_default(triton, models, new_name):
    spec = linear_spec(new_name())
    first, second = models.linear(1.0), models.linear(2.0, "openvino")
    triton.serve(spec, first, second)
    check_golden(triton.client, spec.name, first.golden, batch_size=8, version=1)
    check_golden(triton.client, spec.name, second.golden, batch_size=8, version=2)
    assert triton.client.answer(spec.name, {"x": QUERIES}).version == 2


def test_loading_a_version_does_not_reload_another(triton, models, new_name):
    spec = linear_spec(new_name())
    triton.serve(spec, models.linear(1.0))
    loaded = triton.repository.digest(spec.name, 1)
    before = triton.server.log.read_text().count(f"ModelInstanceInitialize: {spec.name}_")
    triton.repository.place(spec, models.linear(2.0), 1)
    ModelConfig(spec=spec, versions=(1, 2), choice=CHOICE).save(triton.repository.folder(spec.name))
    triton.client.load(spec.name)
    assert triton.server.log.read_text().count(f"ModelInstanceInitialize: {spec.name}_") == before + 1
    assert triton.repository.digest(spec.name, 1) == loaded


def test_requests_that_are_batched_get_their_own_rows(triton, models):
    spec, package = models.counting()
    triton.serve(spec, package, choice=CHOICE.model_copy(update={"queue_delay_us": 300_000}))
    sizes, answers = [1, 2, 3], {}

    def ask(size: int) -> None:
        x = np.full((size, 1), size, np.float32)
        answers[size] = triton.client.infer("counting", {"x": x})

    threads = [threading.Thread(target=ask, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {size: answer["together"].tolist() for size, answer in answers.items()} == {
        size: [[6]] * size for size in sizes
    }
    for size in sizes:
        np.testing.assert_array_equal(answers[size]["same"], np.full((size, 1), size))


def test_a_failing_request_does_not_spoil_those_batched_with_it(triton, models):
    spec, package = models.mixed()
    spec = spec.model_copy(update={"name": "mixed_batched"})
    triton.serve(spec, package, choice=CHOICE.model_copy(update={"queue_delay_us": 300_000}))
    image, outcomes = np.zeros((1, 2, 2), np.uint8), {}

    def ask(token: int) -> None:
        try:
            answer = triton.client.infer(spec.name, {"image": image, "token": np.full((1, 3), token)})
            outcomes[token] = answer["looked_up"].tolist()
        except ServingError as error:
            outcomes[token] = str(error)

    threads = [threading.Thread(target=ask, args=(token,)) for token in (1, 99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[1] == [[10, 10, 10]]
    assert "out of data bounds" in outcomes[99]


def test_one_event_loop_asks_for_many_at_once(triton, models):
    spec, package = models.counting()
    spec = spec.model_copy(update={"name": "counting_async"})
    triton.serve(spec, package, choice=CHOICE.model_copy(update={"queue_delay_us": 300_000}))

    async def ask_all(sizes):
        async with AsyncTritonClient(triton.server.grpc_url) as client:
            asked = [client.answer(spec.name, {"x": np.full((size, 1), size, np.float32)}) for size in sizes]
            return dict(zip(sizes, await asyncio.gather(*asked), strict=True))

    answers = asyncio.run(ask_all([1, 2, 3]))
    for size, answer in answers.items():
        np.testing.assert_array_equal(answer.outputs["same"], np.full((size, 1), size))
        assert answer.outputs["together"].tolist() == [[6]] * size, "none waited for another's answer"
        assert answer.version == 1


def test_from_asyncio_the_same_is_answered_and_refused(triton, models, new_name):
    spec = linear_spec(new_name())
    triton.serve(spec, models.linear(1.0), models.linear(2.0))

    async def ask():
        async with AsyncTritonClient(triton.server.grpc_url) as client:
            for version in (None, 1):
                expected = triton.client.answer(spec.name, {"x": QUERIES}, version)
                answer = await client.answer(spec.name, {"x": QUERIES}, version)
                assert answer.version == expected.version
                np.testing.assert_array_equal(answer.outputs["y"], expected.outputs["y"])
            with pytest.raises(ServingError, match="batch-size must be <= 8"):
                await client.infer(spec.name, {"x": np.zeros((9, 4), np.float32)})
        async with AsyncTritonClient(f"127.0.0.1:{Ports.free().grpc}") as nobody:
            with pytest.raises(ServingError, match="No Triton answers"):
                await nobody.infer(spec.name, {"x": QUERIES})

    asyncio.run(ask())


def test_predict_takes_any_number_of_samples(triton, models, new_name):
    spec, package = linear_spec(new_name()), models.linear(1.0)
    triton.serve(spec, package)
    answers = triton.client.predict(spec.name, {"x": QUERIES}, batch_size=2)
    np.testing.assert_allclose(answers["y"], package.golden.outputs["y"], rtol=1e-5)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_refusals_are_told(triton, models, new_name, protocol):
    spec = linear_spec(new_name())
    triton.serve(spec, models.linear(1.0))
    with triton.connect(protocol) as client:
        with pytest.raises(ServingError, match="nobody"):
            client.infer("nobody", {"x": QUERIES})
        with pytest.raises(ServingError, match="data-type"):
            client.infer(spec.name, {"x": QUERIES.astype(np.int64)})
        with pytest.raises(ServingError, match="batch-size must be <= 8"):
            client.infer(spec.name, {"x": np.zeros((9, 4), np.float32)})
        assert not client.is_serving(spec.name, 7)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_server(protocol):
    ports = Ports.free()
    urls = f"127.0.0.1:{ports.http}", f"127.0.0.1:{ports.grpc}"
    with TritonClient(*urls, protocol) as client, pytest.raises(ServingError, match="No Triton answers"):
        client.infer("m", {"x": QUERIES})


def test_repository_calls_need_the_token(triton, models, new_name):
    spec = linear_spec(new_name())
    triton.serve(spec, models.linear(1.0))
    with TritonClient(triton.server.http_url, triton.server.grpc_url, token="guess") as stranger:
        assert stranger.is_serving(spec.name)
        for call in (stranger.index, lambda: stranger.unload(spec.name), lambda: stranger.load(spec.name)):
            with pytest.raises(ServingError, match="restricted"):
                call()
    assert triton.client.is_serving(spec.name)
