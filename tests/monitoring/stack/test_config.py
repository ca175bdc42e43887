from __future__ import annotations

import os
import socket
import stat
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from leanloop.core.errors import ServingError
from leanloop.core.settings import MonitoringSettings, SloSettings
from leanloop.monitoring.stack import alertmanager, prometheus, rules, supervisord
from leanloop.monitoring.stack.plan import Program, make_plan, usual_programs
from leanloop.monitoring.stack.programs import find_program, need_program
from leanloop.monitoring.stack.timing import scrape_seconds
from tests.monitoring.stack.conftest import stack_settings


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_prometheus_accepts_its_configuration(tmp_path: Path, scale: float) -> None:
    settings = stack_settings(tmp_path, slo={"window_scale": scale})
    (tmp_path / "prometheus.yml").write_text(prometheus.render(settings))
    (tmp_path / "rules.yml").write_text(rules.render(settings.monitoring))
    told = subprocess.run(
        [need_program("promtool"), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "rules.yml" in told.stdout


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_alertmanager_accepts_its_configuration(tmp_path: Path, scale: float) -> None:
    (tmp_path / "token").write_text("secret")
    settings = MonitoringSettings(slo=SloSettings(window_scale=scale))
    (tmp_path / "alertmanager.yml").write_text(alertmanager.render(settings, tmp_path / "token"))
    told = subprocess.run(
        [need_program("amtool"), "check-config", tmp_path / "alertmanager.yml"], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr + told.stdout


def test_pages_also_go_to_the_owner_s_webhook(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    settings = MonitoringSettings(notify_url="http://127.0.0.1:9/page")
    (tmp_path / "alertmanager.yml").write_text(alertmanager.render(settings, tmp_path / "token"))
    told = [
        subprocess.run(
            [need_program("amtool"), "config", "routes", "test", "--config.file", tmp_path / "alertmanager.yml", label],
            capture_output=True,
            text=True,
        ).stdout.strip()
        for label in ("severity=page", "severity=ticket")
    ]
    assert told == ["person,leanloop", "leanloop"]


def test_without_alertmanager_nobody_is_told(tmp_path: Path) -> None:
    settings = stack_settings(tmp_path, alertmanager_url="")
    assert "alerting" not in yaml.safe_load(prometheus.render(settings))
    assert usual_programs(settings) == ("triton", "prometheus", "leanloop")


def test_a_triton_elsewhere_is_not_started(tmp_path: Path) -> None:
    settings = stack_settings(tmp_path)
    serving = settings.serving.model_copy(update={"autostart": False})
    assert "triton" not in usual_programs(settings.model_copy(update={"serving": serving}))


@pytest.mark.parametrize(("scale", "seconds"), [(1.0, 5.0), (0.05, 3.75), (0.001, 1.0)])
def test_short_windows_are_scraped_more_often(scale: float, seconds: float) -> None:
    assert scrape_seconds(SloSettings(window_scale=scale)) == pytest.approx(seconds)


def test_only_loopback(tmp_path: Path) -> None:
    settings = stack_settings(tmp_path, prometheus_url="prometheus.example:9090")
    with pytest.raises(ServingError, match="loopback"):
        make_plan(settings, tmp_path, ("prometheus",))


def test_a_missing_program_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("prometheus") is None
    with pytest.raises(ServingError, match="prometheus is not installed"):
        need_program("prometheus")


def test_a_program_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "prometheus"
    mine.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("prometheus") == mine


def test_a_socket_with_a_long_name_lies_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory() as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        assert supervisord.socket_path(Path(short)) == Path(short, "supervisor.sock")
        deep = tmp_path / ("x" * 90)
        path = supervisord.socket_path(deep)
        assert path == supervisord.socket_path(deep) != supervisord.socket_path(tmp_path / ("y" * 90))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"{path}.4194304")
        path.parent.chmod(0o755)
        with pytest.raises(ServingError, match="open to others"):
            supervisord.socket_path(deep)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(ServingError, match="too long"):
        supervisord.socket_path(deep)


def test_a_supervisor_answers_when_it_listens_not_when_its_socket_is_there() -> None:
    with TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as one:
        path = Path(short, "s")
        assert not supervisord.answers(path)
        one.bind(str(path))
        assert not supervisord.answers(path)


def test_paths_reach_the_programs_as_they_are(tmp_path: Path) -> None:
    program = Program("prometheus", ("/a b/50%/run it", "--x='y'"), {}, 5)
    text = supervisord.render((program,), socket=tmp_path / "s", logs=tmp_path / "100%", directory=tmp_path)
    parsed = RawConfigParser()
    parsed.read_string(text)
    command = parsed["program:prometheus"]["command"] % {}
    said = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["setpriv", "--pdeathsig", "TERM", *program.command]
    assert parsed["supervisord"]["logfile"] % {} == os.fspath(tmp_path / "100%" / "supervisord.log")


def test_a_path_that_would_become_a_comment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="cannot be written"):
        supervisord.render((), socket=tmp_path / "a ;b", logs=tmp_path, directory=tmp_path)
