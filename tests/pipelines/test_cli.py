from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from leanloop.core.errors import LeanloopError
from leanloop.pipelines.cli import app
from tests.conftest import Project

HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "kfp",
    "optuna",
    "pandas",
    "sklearn",
    "scipy",
    "fsspec",
    "pydantic",
    "tritonclient",
    "evidently",
    "dvc",
    "numpy",
}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['leanloop', '--help']\n"
        "from leanloop.pipelines.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.rpartition("MODULES")[2].split())
    assert "typer" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize(
    "command",
    [
        "init",
        "doctor",
        "check",
        "run",
        "reoptimise",
        "bundle",
        "analyze",
        "optimize",
        "convert",
        "benchmark",
        "select",
        "deploy",
        "compile",
        "serve",
        "up",
        "down",
        "status",
        "predict",
        "releases",
        "history",
        "rollback",
        "promote",
    ],
)
def test_every_command_has_help(command: str) -> None:
    assert "Usage" in run(command, "--help")


def test_init_writes_settings_that_are_valid_and_never_overwrites(tmp_path: Path) -> None:
    run("init", str(tmp_path / "mine"))
    from leanloop.core.settings import load_settings

    settings = load_settings(tmp_path / "mine/params.yaml")
    assert settings.model.factory == "model:build"
    for name in ("model.py", "data.py"):
        compile((tmp_path / "mine" / name).read_text(), name, "exec")
    with pytest.raises(LeanloopError, match="nothing was written"):
        run("init", str(tmp_path / "mine"))


def params_of(project: Project) -> str:
    path = project.folder / "params.yaml"
    path.write_text(yaml.safe_dump(project.document))
    return str(path)


def test_check_tells_what_it_found_and_leaves_nothing(project: Project) -> None:
    output = run(
        "check",
        "-p",
        params_of(project),
        "-s",
        "serving.http_url=127.0.0.1:18431",
        "-s",
        "serving.grpc_url=127.0.0.1:18432",
        "-s",
        "serving.metrics_url=127.0.0.1:18433",
    )
    assert "96 samples" in output
    assert not (project.folder / ".leanloop").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("goal.max_size_bytes=100", "out of reach"),
        ("optimize.techniques=[magic]", r"no technique of this name[\s\S]*magic[\s\S]*Known"),
        ("goal.batchsize=3", "Did you mean 'batch_size'"),
        ("model.file=gone.safetensors", "not there"),
        ("goal", "key=value"),
    ],
)
def test_check_refuses(project: Project, override: str, message: str) -> None:
    free = [
        "-s",
        "serving.http_url=127.0.0.1:18441",
        "-s",
        "serving.grpc_url=127.0.0.1:18442",
        "-s",
        "serving.metrics_url=127.0.0.1:18443",
    ]
    with pytest.raises(LeanloopError, match=message):
        run("check", "-p", params_of(project), *free, "-s", override)


def test_check_refuses_a_port_in_use(project: Project) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(LeanloopError, match=str(port)):
            run("check", "-p", params_of(project), "-s", f"serving.http_url=127.0.0.1:{port}")


def test_a_failure_is_one_panel_and_exit_status_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leanloop.pipelines", "check", "-p", str(tmp_path / "none.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_tells_state_and_fix() -> None:
    from leanloop.pipelines.doctor import examine

    findings = {finding.subject: finding for finding in examine()}
    assert findings["torch"].state == "ok"
    assert all(finding.fix for finding in findings.values() if finding.state == "lacks")
