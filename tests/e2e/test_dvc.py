"""The same line by DVC, in a clean clone: `dvc repro`, a second one, metrics and plots."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from leanloop.serving import Ports
from tests.e2e.conftest import ROOT, digits_document

pytestmark = pytest.mark.e2e

ACTIVATE = ". .venv/bin/activate"


def test_repro_ends_with_a_release_and_a_second_one_only_looks_at_the_hardware(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    document: dict[str, Any] = digits_document(Ports.free())
    document["model"] |= {
        "file": "examples/digits/digits.safetensors",
        "code": ["examples/digits/model.py", "examples/digits/data.py"],
    }
    document["optimize"] |= {"techniques": ["ort_static_int8", "openvino_bf16"], "budget_minutes": 0.3, "workers": 1}
    document["targets"] = ["onnxruntime", "openvino"]
    document["benchmark"]["confidence"] = 0.95
    (clone / "params.yaml").write_text(yaml.safe_dump(document))
    environment = {
        **os.environ,
        "LEANLOOP_TRITON_HOME": str(ROOT / ".tools/triton"),
        "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "dvc"),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
    }
    (clone / ".venv").symlink_to(sys.prefix)
    (tmp_path / "gitconfig").write_text("[user]\n\tname = test\n\temail = test@example.invalid\n")

    def call(*command: str) -> str:
        # As the README has it: DVC's stages find `leanloop` on the PATH that activating the environment makes.
        done = subprocess.run(
            ["sh", "-c", f"{ACTIVATE} && {shlex.join(command)}"],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("git", "init", "-q")
    call("git", "add", "-A")
    call("git", "commit", "-qm", "start")
    try:
        call("dvc", "repro")
        release = json.loads((clone / "work/release/release.json").read_text())
        assert release["version"] in (1, 2)
        again = call("dvc", "repro")
        ran = [line.split("'")[1] for line in again.splitlines() if line.startswith("Running stage")]
        assert ran == ["hardware"], again
        assert "original_test_accuracy" in call("dvc", "metrics", "show")
        assert "index.html" in call("dvc", "plots", "show")
        assert (clone / "dvc_plots/index.html").exists()
    finally:
        call("leanloop", "serve", "down")


def test_the_readme_activates_the_environment_before_it_calls_dvc() -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "README.md").read_text().splitlines()]
    assert lines[lines.index("dvc repro") - 1] == ACTIVATE
