"""Every step from the installed wheel, as another user, in an empty folder, with read-only inputs and no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from leanloop.serving import Ports
from tests.e2e.conftest import ROOT, digits_document
from tests.postgresql import NOBODY, as_user

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    folder = Path("/tmp") / f"leanloop-wheel-{os.getpid()}"
    built = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(ROOT)],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(folder),
            *map(str, built.glob("*.whl")),
        ],
        check=True,
    )
    yield folder  # type: ignore[misc]
    shutil.rmtree(folder)


@pytest.fixture
def home() -> Path:
    """A folder that another user can reach, unlike pytest's own."""
    folder = Path("/tmp") / f"leanloop-unprivileged-{os.getpid()}"
    folder.mkdir()
    yield folder  # type: ignore[misc]
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
    shutil.rmtree(folder)


def may_run(program: Path | str, user: int) -> bool:
    """Whether a Python can be started by this user."""
    return subprocess.run([*as_user(user), program, "-c", ""], check=False, capture_output=True).returncode == 0


def reachable_python(user: int) -> str:
    """A Python without our environment that the other user may run: root's own often lies in a closed folder."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys._base_executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):  # type: ignore[attr-defined]
        if may_run(candidate, user):
            return str(candidate)
    pytest.skip(f"user {user} can reach no {version}")


def test_the_whole_line(wheel: Path, home: Path) -> None:
    ports = Ports.free()
    project = home / "project"
    shutil.copytree(ROOT / "examples/digits", project, ignore=shutil.ignore_patterns("__pycache__"))
    document = digits_document(ports)
    document["workspace"] = str(home / "workspace")  # type: ignore[assignment]
    document["optimize"] |= {"techniques": ["ort_static_int8", "openvino_bf16"], "budget_minutes": 0.3, "workers": 1}
    (project / "params.yaml").write_text(yaml.safe_dump(document))
    outputs = home / "outputs"
    for folder in (outputs, home / "workspace", home / "cache"):
        folder.mkdir()
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    if user == NOBODY:
        for folder in (home, outputs, home / "workspace", home / "cache"):
            os.chown(folder, user, user)
    # PYTHONPATH without .pth files: the editable checkout cannot be found, only the wheel and its dependencies.
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{wheel}{os.pathsep}{sysconfig.get_path('purelib')}",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home / "cache"),
        "TMPDIR": str(home / "cache"),
        "LEANLOOP_TRITON_HOME": str(ROOT / ".tools/triton"),
    }

    python = reachable_python(user)
    # Triton's environment is a link to the Python that made it. Where that one lies in root's closed folder, the
    # last step alone runs as root; all else about it (wheel, empty folder, read-only inputs) stays.
    deployer = user if may_run(ROOT / ".tools/triton/bin/python", user) else os.geteuid()

    def step(name: str, *arguments: str) -> None:
        empty = home / "cache" / f"cwd-{name}"
        empty.mkdir()
        empty.chmod(0o777)
        done = subprocess.run(
            [
                *as_user(deployer if name == "deploy" else user),
                *(python, "-m", "leanloop.pipelines", name, "-p", str(project / "params.yaml"), *arguments),
            ],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(empty.iterdir()) == [], f"{name} wrote into the folder that it was started in"

    def written(name: str) -> str:
        return str(outputs / name)

    def freeze(name: str) -> str:
        subprocess.run(["chmod", "-R", "a-w", written(name)], check=True)
        return written(name)

    try:
        subprocess.run(["chmod", "-R", "a-w", str(project)], check=True)
        step("bundle", "--out", written("bundle"))
        shutil.move(project / "digits.safetensors", home / "gone.safetensors")
        bundle = ("--bundle", freeze("bundle"))
        step("analyze", *bundle, "--out", written("analysis"))
        analysis = ("--analysis", freeze("analysis"))
        step("optimize", *bundle, *analysis, "--out", written("candidates"))
        step("convert", *bundle, "--candidates", freeze("candidates"), "--out", written("artifacts"))
        artifacts = ("--artifacts", freeze("artifacts"))
        step("benchmark", *bundle, *artifacts, "--out", written("benchmark"))
        benchmark = ("--benchmark", freeze("benchmark"))
        step("select", *bundle, *analysis, *artifacts, *benchmark, "--out", written("verdict"))
        verdict = ("--verdict", freeze("verdict"))
        step("deploy", *bundle, *analysis, *artifacts, *benchmark, *verdict, "--out", written("release"))
        assert (outputs / "release/release.json").is_file()
    finally:
        subprocess.run(
            [sys.executable, "-m", "leanloop.pipelines", "serve", "down", "-p", str(project / "params.yaml")],
            check=True,
        )
