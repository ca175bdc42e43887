"""Triton in the foreground, as a supervisor runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from leanloop.core.errors import ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving import ModelConfig, Ports, StackState, connect, down, repository, status, up
from leanloop.serving.secret import kept_secret
from leanloop.serving.stack import is_up
from tests.serving.conftest import CHOICE, QUERIES, Models, linear_spec

CHILD = """
import sys
from pathlib import Path
from leanloop.core.settings import ServingSettings
from leanloop.serving.stack import run
run(ServingSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


class Keeper:
    """`run` in a process of its own, which the test can end."""

    def __init__(self, folder: Path) -> None:
        ports = Ports.free()
        self.settings = ServingSettings(
            http_url=f"127.0.0.1:{ports.http}",
            grpc_url=f"127.0.0.1:{ports.grpc}",
            metrics_url=f"127.0.0.1:{ports.metrics}",
        )
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, self.settings.model_dump_json(), str(self.folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=30)
        down(self.folder)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path / "serving")
    yield keeper
    keeper.end()


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def quantiles(metrics_url: str, model: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{metrics_url}/metrics", timeout=5) as response:
        families = text_string_to_metric_families(response.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        sample.labels["quantile"]: sample.value
        for sample in samples
        if sample.name == "nv_inference_request_summary_us" and sample.labels["model"] == model
    }


def test_it_takes_over_serves_and_ends_cleanly(keeper: Keeper, models: Models) -> None:
    place = repository(keeper.settings, keeper.folder)
    spec = linear_spec("m")
    number = place.place(spec, models.linear(2.0), CHOICE.threads)
    ModelConfig(spec=spec, versions=(number,), choice=CHOICE).save(place.folder("m"))
    before = up(keeper.settings, keeper.folder)
    process = keeper.start()
    until(lambda: is_up(keeper.folder, kept=True))
    assert before.process.find() is None
    after = up(keeper.settings, keeper.folder)
    with connect(keeper.settings, keeper.folder) as client:
        for _ in range(3):
            client.answer("m", {"x": QUERIES})
    # The rules of `leanloop.monitoring.stack` count on this name, label and unit.
    until(lambda: quantiles(keeper.settings.metrics_url, "m").get("0.99", 0.0) > 10, 5)
    with pytest.raises(ServingError, match="keeps Triton up"):
        down(keeper.folder)

    process.terminate()
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (0, "")
    assert after.process.find() is None
    assert status(keeper.settings, keeper.folder).state is None
    assert not (keeper.folder / "keeper.json").exists()
    assert not down(keeper.folder)


def test_a_triton_that_ends_by_itself_is_an_error(keeper: Keeper) -> None:
    process = keeper.start()
    until(lambda: is_up(keeper.folder, kept=True))
    os.kill(StackState.load(keeper.folder).pid, signal.SIGKILL)
    _, told = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Triton ended by itself" in told
    assert "SIGKILL" in told


def test_two_keepers_do_not_fight(keeper: Keeper) -> None:
    keeper.start()
    until(lambda: is_up(keeper.folder, kept=True))
    state = StackState.load(keeper.folder)
    second = subprocess.run(
        [sys.executable, "-c", CHILD, keeper.settings.model_dump_json(), str(keeper.folder)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "Another process keeps this stack's Triton up" in second.stderr
    assert StackState.load(keeper.folder) == state
    assert is_up(keeper.folder, kept=True)


def test_a_secret_is_made_once_and_again_when_others_could_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    first = kept_secret(path)
    assert kept_secret(path) == first == path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o644)
    assert kept_secret(path) != first
    assert path.stat().st_mode & 0o777 == 0o600
