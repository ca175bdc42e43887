from __future__ import annotations

import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leanloop.core.errors import ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving import (
    CaptureChoice,
    Journal,
    ModelConfig,
    Ports,
    ProcessId,
    StackState,
    connect,
    down,
    repository,
    status,
    up,
)
from leanloop.serving.stack import StackKeeper
from tests.serving.conftest import CHOICE, QUERIES, deploy, linear_spec


@pytest.fixture
def settings() -> ServingSettings:
    ports = Ports.free()
    return ServingSettings(
        http_url=f"127.0.0.1:{ports.http}",
        grpc_url=f"localhost:{ports.grpc}",
        metrics_url=f"127.0.0.1:{ports.metrics}",
    )


@pytest.fixture
def folder(tmp_path: Path):
    folder = tmp_path / "serving"
    yield folder
    down(folder)


def test_up_status_down(settings, folder, models):
    assert not down(folder)
    assert status(settings, folder).state is None
    with ThreadPoolExecutor() as pool:
        states = list(pool.map(lambda _: up(settings, folder), range(2)))
    assert states[0] == states[1] == up(settings, folder) == status(settings, folder).state
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    spec = linear_spec("m")
    with connect(settings, folder) as client:
        packages = models.linear(1.0), models.linear(2.0)
        deploy(client, repository(settings, folder), spec, packages)
        broken = linear_spec("broken")
        with pytest.raises(ServingError):
            deploy(client, repository(settings, folder), broken, [models.broken()])
    versions = status(settings, folder).versions
    assert [(one.model, one.version, one.answers) for one in versions] == [("m", 1, True), ("m", 2, True)]

    # Killed as by the system: the next `up` starts it again, and it serves what was promoted.
    process = states[0].process.find()
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.kill()
    process.wait(timeout=10)
    assert status(settings, folder).state is None
    config = ModelConfig(spec=linear_spec("broken"), versions=(1,), choice=CHOICE)
    config.save(repository(settings, folder).folder("broken"))
    assert up(settings, folder).pid != states[0].pid
    health = status(settings, folder).versions
    assert {(one.model, one.version, one.answers) for one in health} == {
        ("broken", 1, False), ("m", 1, True), ("m", 2, True),
    }  # fmt: skip
    with connect(settings, folder, "http") as client:
        assert client.answer("m", {"x": QUERIES}).version == 2
    assert down(folder)
    assert not down(folder)


def test_a_stack_that_was_moved_captures_into_its_new_place(settings, folder, models, tmp_path):
    there, served, journal = tmp_path / "gone" / "capture", repository(settings, folder), Journal(folder)
    spec = linear_spec("m")
    for factor in (1.0, 2.0):
        served.place(spec, models.linear(factor), CHOICE.threads)
    capture = CaptureChoice(folder=str(there), rate=1.0, quota_bytes=1 << 20)
    config = ModelConfig(spec=spec, versions=(1,), choice=CHOICE, capture=capture)
    config.save(served.folder("m"))
    with journal.begin("m", "half") as rollout:
        # Its process died right after it had written what shall serve, and before it was loaded.
        rollout = journal.move(rollout, "validated")
        after = config.model_copy(update={"versions": (1, 2)})
        journal.move(rollout, "promoting", version=2, before=config, after=after)
        after.save(served.folder("m"))
    up(settings, folder)
    assert journal.history("m")[-1].state == "baked"
    with connect(settings, folder) as client:
        assert client.answer("m", {"x": QUERIES}).version == 2
    down(folder)
    assert len(list((folder / "capture").glob("*.segment"))) == 1
    assert not there.exists()


def test_other_ports_than_the_running_ones_are_refused(settings, folder):
    up(settings, folder)
    other = settings.model_copy(update={"metrics_url": "127.0.0.1:1"})
    with pytest.raises(ServingError, match="at another address"):
        up(other, folder)
    with pytest.raises(ServingError, match="on another model repository"):
        up(settings.model_copy(update={"repository": str(folder / "others")}), folder)


def state_of(process, settings, *, seconds=0, folder=""):
    """As a stack would leave it whose Triton is this process, or one that began so many seconds later."""
    ours = ProcessId.of(process.pid)
    return StackState(
        pid=ours.pid,
        create_time=ours.create_time + seconds,
        folder=folder,
        http_url=settings.http_url,
        grpc_url=settings.grpc_url,
        metrics_url=settings.metrics_url,
        repository="models",
        log="log",
        started="",
    )


def test_a_recycled_pid_is_left_alone(settings, folder):
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        state_of(sleeper, settings, seconds=-100).save(folder)
        assert status(settings, folder).state is None
        assert not down(folder)
        assert sleeper.poll() is None
        sleeper.kill()


def test_a_stack_that_does_not_come_up_leaves_no_state(settings, folder):
    hasty = settings.model_copy(update={"start_timeout_seconds": 1e-9})
    with pytest.raises(ServingError, match="did not come up"):
        up(hasty, folder)
    assert status(settings, folder).state is None


@pytest.mark.parametrize("url", ["0.0.0.0:8000", "triton.example:8000", "127.0.0.1", "127.0.0.1:99999"])
def test_only_loopback(folder, url):
    with pytest.raises(ServingError, match="loopback"):
        up(ServingSettings(http_url=url), folder)


def test_a_copied_folder_claims_no_process_of_the_first_and_a_moved_one_keeps_its_own(settings, folder, tmp_path):
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        state_of(sleeper, settings, folder=str(folder)).save(folder)
        StackKeeper.here(folder).save(folder)
        copy, moved = tmp_path / "copy", tmp_path / "moved"
        shutil.copytree(folder, copy)
        assert (StackState.find(copy), StackKeeper.find(copy)) == (None, None)
        assert not down(copy)
        assert sleeper.poll() is None
        folder.rename(moved)
        assert StackKeeper.find(moved) is not None
        (moved / StackKeeper.filename).unlink()
        assert down(moved)
        assert sleeper.wait(10) != 0
