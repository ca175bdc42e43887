"""A workspace that was moved or copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leanloop.core.settings import Settings, parse_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.pipelines.cli.serving import capture_here
from leanloop.serving import CaptureChoice, ModelConfig, stack
from tests.serving.conftest import CHOICE, linear_spec


def settings_in(folder: Path) -> Settings:
    document = {
        "model": {"name": "net", "file": "net.onnx", "inputs": [{"name": "x", "shape": [4]}]},
        "data": {"source": "data.npz"},
        "workspace": "workspace",
    }
    return with_absolute_paths(parse_settings(document, source="test"), folder)


def captured_into(settings: Settings) -> str:
    config = stack.repository(settings.serving, Workspace(settings).serving).served("net")
    assert config.capture is not None
    return config.capture.folder


@pytest.mark.parametrize("way", [shutil.copytree, shutil.move])
def test_its_models_capture_into_it_and_that_is_said(
    way: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    there = settings_in(old)
    capture = CaptureChoice(folder=str(Workspace(there).capture), rate=1.0, quota_bytes=1)
    config = ModelConfig(spec=linear_spec("net"), versions=(1,), choice=CHOICE, capture=capture)
    config.save(stack.repository(there.serving, Workspace(there).serving).folder("net"))
    capture_here(there)
    assert capsys.readouterr().out == ""

    assert callable(way)
    way(str(old), str(new))
    here = settings_in(new)
    capture_here(here)
    (line,) = capsys.readouterr().out.splitlines()
    assert (
        line
        == f"The workspace was moved: requests of net are captured into {captured_into(here)}, not {capture.folder}."
    )
    assert captured_into(here) == str(Workspace(here).capture) == str(new / "workspace/serving/capture")
    if old.exists():
        assert captured_into(there) == str(Workspace(there).capture)
    capture_here(here)
    assert capsys.readouterr().out == ""
