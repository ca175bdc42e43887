"""What this machine has and lacks, with the fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from leanloop.core.errors import LeanloopError
from leanloop.core.hardware import instruction_sets, usable_cores
from leanloop.monitoring.stack.programs import Tool, find_program

State = Literal["ok", "lacks", "note"]

_PACKAGES = {
    "torch": "the model's framework",
    "onnxruntime": "runs ONNX",
    "openvino": "runs OpenVINO IR",
    "nncf": "INT8 for OpenVINO",
    "torch-pruning": "channel pruning",
    "optuna": "the search",
    "kfp": "pipelines",
    "dvc": "data and experiment versions",
    "evidently": "drift reports",
    "tritonclient": "talks to Triton",
}
_PROGRAMS: dict[Tool, str] = {"prometheus": "metrics", "alertmanager": "alerts"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    subject: str
    state: State
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at Python, machine, packages, Triton and programs; nothing is changed."""
    looks: list[Callable[[], list[Finding]]] = [_python, _machine, _packages, _triton, _programs, _disk]
    return [finding for look in looks for finding in look()]


def _python() -> list[Finding]:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return [Finding("Python", "ok", version)]
    return [Finding("Python", "lacks", version, "Use Python 3.11 or 3.12.")]


def _machine() -> list[Finding]:
    memory = psutil.virtual_memory().total / 2**30
    sets = instruction_sets()
    int8 = sorted(sets & {"avx512_vnni", "avx_vnni", "amx_int8"})
    bf16 = sorted(sets & {"amx_bf16", "avx512_bf16"})
    return [
        Finding("cores", "ok" if usable_cores() > 1 else "note", str(usable_cores())),
        Finding(
            "memory", "ok" if memory > 7 else "lacks", f"{memory:.0f} GiB", "" if memory > 7 else "8 GiB are needed."
        ),
        Finding("fast INT8", "ok" if int8 else "note", ", ".join(int8) or "none: INT8 saves bytes, hardly time"),
        Finding("fast bf16", "ok" if bf16 else "note", ", ".join(bf16) or "none: bf16 saves bytes, not time"),
    ]


def _packages() -> list[Finding]:
    findings = []
    for package, purpose in _PACKAGES.items():
        try:
            findings.append(Finding(package, "ok", importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(package, "lacks", purpose, "pip install 'leanloop[all]', or `make setup`"))
    return findings


def _triton() -> list[Finding]:
    from leanloop.serving import TritonHome

    try:
        return [Finding("Triton", "ok", str(TritonHome.find().folder))]
    except LeanloopError as error:
        return [Finding("Triton", "lacks", error.what, error.fix)]


def _programs() -> list[Finding]:
    findings = []
    for program, purpose in _PROGRAMS.items():
        path = find_program(program)
        if path is not None:
            findings.append(Finding(program, "ok", str(path)))
        else:
            findings.append(Finding(program, "lacks", purpose, "`make setup` brings it on Debian and Ubuntu."))
    return findings


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    findings = [
        Finding("disk", "ok" if free > 2 else "lacks", f"{free:.0f} GiB free", "" if free > 2 else "Free 2 GiB.")
    ]
    shared = Path("/dev/shm")
    if shared.exists():
        # Triton's Python backend moves tensors through it.
        room = shutil.disk_usage(shared).free / 2**20
        state: State = "ok" if room > 200 else "lacks"
        findings.append(
            Finding("/dev/shm", state, f"{room:.0f} MiB free", "" if room > 200 else "Triton needs 200 MiB.")
        )
    if not os.access(tempfile.gettempdir(), os.W_OK):
        findings.append(Finding("temporary folder", "lacks", tempfile.gettempdir(), "Set TMPDIR to a writable folder."))
    return findings
