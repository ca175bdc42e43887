"""Whole runs on the digits example, shared by the tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from leanloop.serving import Ports

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Owner:
    """A project folder and the ports of its Triton."""

    folder: Path
    ports: Ports

    def leanloop(
        self, *arguments: str, params: str = "params.yaml", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "leanloop.pipelines", *arguments, "-p", str(self.folder / params)],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{os.environ['PATH']}{os.pathsep}{ROOT / '.tools/debian/usr/bin'}",
                "LEANLOOP_TRITON_HOME": str(ROOT / ".tools/triton"),
                "COLUMNS": "160",
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def write(self, document: dict[str, object], params: str = "params.yaml") -> None:
        (self.folder / params).write_text(yaml.safe_dump(document))


def new_owner(folder: Path) -> Owner:
    folder.mkdir(parents=True, exist_ok=True)
    return Owner(folder, Ports.free())


def digits_document(ports: Ports) -> dict[str, dict[str, object]]:
    document: dict[str, dict[str, object]] = yaml.safe_load((ROOT / "examples/digits/params.yaml").read_text())
    document["workspace"] = "workspace"  # type: ignore[assignment]
    document["serving"] |= {
        "http_url": f"127.0.0.1:{ports.http}",
        "grpc_url": f"127.0.0.1:{ports.grpc}",
        "metrics_url": f"127.0.0.1:{ports.metrics}",
    }
    return document


def watched(document: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """The same, watched as in the example of the loop, on ports of its own."""
    loop = yaml.safe_load((ROOT / "examples/digits/params-loop.yaml").read_text())
    ports = Ports.free()
    document["monitoring"] = loop["monitoring"] | {
        "service_url": f"127.0.0.1:{ports.http}",
        "prometheus_url": f"127.0.0.1:{ports.grpc}",
        "alertmanager_url": f"127.0.0.1:{ports.metrics}",
        # One busy machine runs the tests: how fast it serves is not what is asked here.
        "slo": {"latency_p99_ms": 5_000, "window_scale": 0.1},
    }
    return document


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """The digits example after a whole run: released, and served until the tests end."""
    owner = new_owner(tmp_path_factory.mktemp("e2e") / "digits")
    for name in ("model.py", "data.py", "digits.safetensors"):
        shutil.copy(ROOT / "examples/digits" / name, owner.folder)
    owner.write(dict(watched(digits_document(owner.ports))))
    try:
        (owner.folder / "first_run.txt").write_text(owner.leanloop("run").stdout)
        yield owner
    finally:
        owner.leanloop("serve", "down", check=False)
