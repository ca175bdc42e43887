"""Rollouts whose process is killed (-9) at each of their moments, and mended by the next start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leanloop.core.settings import ServingSettings
from leanloop.serving import Journal, Ports, connect, down, recover, repository, up
from tests.serving.conftest import QUERIES, deploy, linear_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture
def crash(triton, models, new_name, tmp_path):
    """Versions 1 and 2 serve; version 3 comes, or version 2 goes, and the process that does it dies."""
    spec = linear_spec(new_name())
    deploy(triton.client, triton.repository, spec, [models.linear(1.0), models.linear(2.0)])

    def run(what: str, moment: str) -> str:
        kill_in(
            what=what,
            moment=moment,
            model=spec.name,
            repository=str(triton.repository.root),
            packages=str(tmp_path / "child"),
            http_url=triton.server.http_url,
            grpc_url=triton.server.grpc_url,
            token="sesame",
        )
        return spec.name

    return run


def kill_in(**job: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.rollout_child", json.dumps(job)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def mend(triton, model: str) -> list[str]:
    return [one.did for one in recover(triton.client, triton.repository, triton.journal) if one.rollout.model == model]


@pytest.mark.parametrize(
    ("moment", "did", "state", "serves"),
    [
        ("staged", "discarded", "discarded", 2),
        ("validated", "discarded", "discarded", 2),
        ("shadowed", "discarded", "discarded", 2),
        ("promoting", "undid the promotion", "discarded", 2),
        ("configured", "finished the promotion", "baked", 3),
        ("loaded", "finished the promotion", "baked", 3),
        ("baked", None, "baked", 3),
    ],
)
def test_a_promotion_that_was_killed(triton, models, crash, moment, did, state, serves):
    model = crash("promote", moment)
    assert triton.client.is_serving(model), "somebody answers all the time"
    assert mend(triton, model) == ([did] if did else [])
    assert mend(triton, model) == [], "once is enough"
    assert triton.journal.history(model)[-1].state == state
    assert triton.client.answer(model, {"x": QUERIES}).version == serves
    assert max(triton.repository.config(model).versions) == serves
    following = deploy(triton.client, triton.repository, linear_spec(model), [models.linear(1.0), models.linear(9.0)])
    assert following.previous == serves


@pytest.mark.parametrize("moment", ["rolling_back", "configured", "loaded", "rolled_back"])
def test_a_roll_back_that_was_killed(triton, crash, moment):
    model = crash("roll back", moment)
    assert triton.client.is_serving(model), "somebody answers all the time"
    assert mend(triton, model) == ([] if moment == "rolled_back" else ["finished the roll-back"])
    assert mend(triton, model) == [], "once is enough"
    rollout = triton.journal.history(model)[-1]
    assert (rollout.state, rollout.reason) == ("rolled_back", "bad")
    assert triton.client.answer(model, {"x": QUERIES}).version == 1
    assert triton.repository.config(model).versions == (1,)


def test_a_challenger_that_fails_after_the_crash_is_undone(triton, crash):
    model = crash("promote", "configured")
    wrong = triton.journal.golden(model, 2)
    triton.journal.keep_golden(model, 3, wrong)
    (did,) = mend(triton, model)
    assert did.startswith("failed: The new version was not promoted")
    assert triton.journal.history(model)[-1].state == "discarded"
    assert triton.client.answer(model, {"x": QUERIES}).version == 2


def test_a_server_that_starts_again_mends_what_it_finds(models, tmp_path):
    ports = Ports.free()
    settings = ServingSettings(
        http_url=f"127.0.0.1:{ports.http}",
        grpc_url=f"127.0.0.1:{ports.grpc}",
        metrics_url=f"127.0.0.1:{ports.metrics}",
    )
    folder, spec = tmp_path / "serving", linear_spec("m")
    models_folder = repository(settings, folder)
    try:
        up(settings, folder)
        with connect(settings, folder) as client:
            deploy(client, models_folder, spec, [models.linear(1.0), models.linear(2.0)])
        kill_in(
            what="promote",
            moment="configured",
            model=spec.name,
            repository=str(models_folder.root),
            packages=str(tmp_path / "child"),
            http_url=settings.http_url,
            grpc_url=settings.grpc_url,
            token=(folder / "token").read_text(),
        )
        assert down(folder)
        up(settings, folder)
        assert [rollout.state for rollout in Journal(folder).history("m")] == ["baked", "baked"]
        with connect(settings, folder) as client:
            assert client.answer("m", {"x": QUERIES}).version == 3
    finally:
        down(folder)


def test_a_rollout_that_lives_is_left_alone(triton, models, new_name):
    spec = linear_spec(new_name())
    with triton.journal.begin(spec.name, "a") as rollout:
        assert mend(triton, spec.name) == []
        assert triton.journal.history(spec.name) == (rollout,)
