"""A real Triton keeps what it was asked and what it answered, and ours is not among it."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import numpy as np

from leanloop.serving import AsyncTritonClient, ModelConfig
from leanloop.serving.capture_format import Record, read_segment
from leanloop.serving.health import check_health
from leanloop.serving.load import ClosedLoop
from leanloop.serving.model_config import CaptureChoice
from tests.serving.conftest import CHOICE, QUERIES, linear_spec


def captured(folder: Path, count: int) -> dict[str, Record]:
    """The first `count` records, by request id, as soon as they are in finished segments."""
    deadline = time.monotonic() + 20
    while True:
        paths = sorted(folder.glob("*.segment"))
        found = {item.id: item for path in paths for item in read_segment(path) if isinstance(item, Record)}
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        time.sleep(0.05)


def serve(triton, spec, packages, capture: CaptureChoice) -> None:
    numbers = tuple(triton.repository.place(spec, package, CHOICE.threads) for package in packages)
    config = ModelConfig(spec=spec, versions=numbers, choice=CHOICE, capture=capture)
    config.save(triton.repository.folder(spec.name))
    triton.client.load(spec.name)


def test_every_version_keeps_what_it_answered(triton, models, new_name, tmp_path: Path) -> None:
    spec, choice = linear_spec(new_name()), CaptureChoice(folder=str(tmp_path), rate=1.0, quota_bytes=1 << 20)
    serve(triton, spec, [models.linear(1.0), models.linear(2.0)], choice)
    before = time.time()
    answers = {
        f"r{version}.{size}": triton.client.answer(spec.name, {"x": QUERIES[:size]}, version, f"r{version}.{size}")
        for version in (1, 2)
        for size in (1, 3)
    }
    found = captured(tmp_path, 4)
    assert set(found) == set(answers)
    for identity, answer in answers.items():
        record = found[identity]
        assert (record.model, record.version) == (spec.name, answer.version)
        assert np.array_equal(record.inputs["x"], QUERIES[: len(record.inputs["x"])])
        assert np.array_equal(record.outputs["y"], answer.outputs["y"])
        assert before <= record.time <= time.time()
        assert 0 < record.compute_ms < 5_000


def test_our_own_questions_are_not_kept(triton, models, new_name, tmp_path: Path) -> None:
    spec, choice = linear_spec(new_name()), CaptureChoice(folder=str(tmp_path), rate=1.0, quota_bytes=1 << 20)
    serve(triton, spec, [models.linear(1.0)], choice)
    triton.client.predict(spec.name, {"x": QUERIES}, 2, internal=True)
    assert all(health.answers for health in check_health(triton.client, triton.repository))
    triton.client.infer(spec.name, {"x": QUERIES}, request_id="theirs")
    assert set(captured(tmp_path, 1)) == {"theirs"}


def test_without_an_id_a_request_gets_one(triton, models, new_name, tmp_path: Path) -> None:
    spec, choice = linear_spec(new_name()), CaptureChoice(folder=str(tmp_path), rate=1.0, quota_bytes=1 << 20)
    serve(triton, spec, [models.linear(1.0)], choice)
    send = triton.client.prepare(spec.name, {"x": QUERIES})
    send("")
    send("")
    assert all(len(identity) == 32 for identity in captured(tmp_path, 2))


def test_what_waits_is_written_when_the_model_is_unloaded(triton, models, new_name, tmp_path: Path) -> None:
    spec, choice = linear_spec(new_name()), CaptureChoice(folder=str(tmp_path), rate=1.0, quota_bytes=1 << 20)
    serve(triton, spec, [models.linear(1.0)], choice)
    triton.client.infer(spec.name, {"x": QUERIES}, request_id="last")
    triton.client.unload(spec.name)
    assert set(captured(tmp_path, 1)) == {"last"}


def test_a_capture_folder_that_is_gone_does_not_fail_a_request(triton, models, new_name, tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    spec, choice = linear_spec(new_name()), CaptureChoice(folder=str(folder), rate=1.0, quota_bytes=1 << 20)
    serve(triton, spec, [models.linear(1.0)], choice)
    folder.rmdir()
    for index in range(3):
        triton.client.infer(spec.name, {"x": QUERIES}, request_id=f"lost-{index}")
        time.sleep(0.1)
    folder.mkdir()
    time.sleep(2.5)
    triton.client.infer(spec.name, {"x": QUERIES}, request_id="kept")
    assert "kept" in captured(folder, 1)


def test_our_clients_send_uuids_and_load_does_where_it_is_asked_to(triton, models, new_name, tmp_path: Path) -> None:
    spec, choice = linear_spec(new_name()), CaptureChoice(folder=str(tmp_path), rate=1.0, quota_bytes=1 << 20)
    serve(triton, spec, [models.linear(1.0)], choice)
    asked = 0
    for live in (False, True):
        with ClosedLoop(triton.server.grpc_url, spec.name, 1, {"x": QUERIES}, 1, live=live) as loop:
            asked = loop.record(0.2).requests

    async def ask() -> None:
        async with AsyncTritonClient(triton.server.grpc_url) as client:
            await client.infer(spec.name, {"x": QUERIES})

    triton.client.infer(spec.name, {"x": QUERIES})
    asyncio.run(ask())
    found = captured(tmp_path, asked + 2)
    assert len(found) == asked + 2
    assert {identity: uuid.UUID(hex=identity).version for identity in found} == dict.fromkeys(found, 4)
