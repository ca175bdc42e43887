"""The others: what each peer needs, and how it is asked for its model of an original."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from apart import reason_of
from contest import Entrant

from leanloop.bundle import Bundle
from leanloop.convert import baselines
from leanloop.core.contracts import ModelFiles
from leanloop.core.files import atomic_file, digest_json

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".tools/peers"
SECONDS = 1800


@dataclass(frozen=True)
class Peer:
    """One of the others.

    Attributes:
        script: In ``benchmarks/peer``, with its arguments after the work folder.
        requirements: Of its environment.
        runtime: That runs its result.
        folder: Of its result, in the work folder.
    """

    script: tuple[str, ...]
    requirements: tuple[str, ...]
    runtime: Literal["onnxruntime", "openvino"]
    folder: str


ORT = ("onnxruntime==1.31.1", "onnx==1.23.2", "sympy")
NNCF = ("nncf==3.4.0", "openvino==2026.4.1")
OLIVE = ("olive-ai==0.13.0", "onnxruntime==1.31.1", "torch==2.13.0", "requests")
"""Olive imports ``requests`` without asking for it."""


def make(peer: Peer, bundle: Bundle, work: Path) -> dict[str, Any]:
    """What a peer made of the original, as an `Entrant`, and the versions of its packages.

    Where it made nothing, or nothing within `SECONDS`, there is no result, and a reason.
    """
    material(bundle, work)
    shutil.rmtree(work / peer.folder, ignore_errors=True)
    script, *arguments = peer.script
    log, main_file = work / f"{peer.folder}.log", "model.xml" if peer.runtime == "openvino" else "model.onnx"
    versions: dict[str, str] = {}
    try:
        python = environment(peer.requirements)
        versions = installed(python)
        code = ended_with([str(python), str(ROOT / "benchmarks/peer" / script), str(work), *arguments], work, log)
    except subprocess.TimeoutExpired:
        return {"result": None, "reason": f"it was not done after {SECONDS} s; see {log}", "installed": versions}
    except (subprocess.CalledProcessError, OSError) as error:
        return {"result": None, "reason": reason_of(error), "installed": versions}
    if code or not (work / peer.folder / main_file).exists():
        reason = f"{' '.join(peer.script)} ended with {code}{'' if code else ' and no model'}: {last_line(log)}"
        return {"result": None, "reason": reason, "installed": versions}
    files = (main_file, "model.bin") if peer.runtime == "openvino" else (main_file,)
    model = ModelFiles(
        runtime=peer.runtime,
        precision="int8",
        main=main_file,
        files=files,
        size_bytes=sum((work / peer.folder / file).stat().st_size for file in files),
    )
    return {"result": Entrant(model, work / peer.folder).document(), "installed": versions}


def ended_with(command: list[str], work: Path, log: Path) -> int:
    """The exit status of a peer's script; one that takes longer than `SECONDS` is ended with all that it started."""
    environment = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1"}
    # It has packages of its own; ours are none of its business.
    environment.pop("PYTHONPATH", None)
    with (
        log.open("w") as stream,
        subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=work, env=environment) as process,
    ):
        try:
            return process.wait(SECONDS)
        except BaseException:
            with suppress(psutil.NoSuchProcess):
                for one in psutil.Process(process.pid).children(recursive=True):
                    one.kill()
            process.kill()
            raise


def last_line(log: Path) -> str:
    """What a script said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def installed(python: Path) -> dict[str, str]:
    """Package -> version, of an environment."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {one["name"]: one["version"] for one in json.loads(listed.stdout)}


def material(bundle: Bundle, work: Path) -> None:
    """The original's ONNX file, calibration samples, and validation samples with their labels."""
    if (work / "validation.npz").exists():
        return
    shutil.rmtree(work, ignore_errors=True)
    baselines(bundle, work / "originals", ("onnxruntime",), threads=1)
    shutil.copy(work / "originals/original-onnxruntime-fp32/model.onnx", work / "model.onnx")
    np.savez(work / "calibration.npz", allow_pickle=False, **bundle.split("calibration").inputs)
    validation = bundle.split("validation")
    labels = {} if validation.targets is None else {"target": validation.targets}
    # It tells that all of this is there, so it comes last, and whole.
    with atomic_file(work / "validation.npz") as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **validation.inputs, **labels)


def environment(requirements: tuple[str, ...]) -> Path:
    """The Python of an environment that holds some packages; made when it is not there."""
    folder = ENVIRONMENTS / digest_json([requirements, sys.version])[:12]
    python = folder / "bin/python"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *requirements], check=True)
        (folder / "whole").touch()
    return python
