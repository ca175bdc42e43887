"""What machine this is: the fingerprint that every number carries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache
from typing import Any

import psutil

from leanloop.core.files import digest_json

_ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "neon",
    "sve",
)
_TOOLS = ("torch", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf", "torch-pruning", "numpy")


@cache
def _cpu() -> dict[str, Any]:
    # Slow (it starts a child process) and constant, so read once.
    import cpuinfo

    info = cpuinfo.get_cpu_info()
    flags = set(info.get("flags", ()))
    return {
        "model": info.get("brand_raw", platform.processor() or "unknown"),
        "isa": [flag for flag in _ISA_FLAGS if flag in flags],
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def instruction_sets() -> frozenset[str]:
    """The CPU's vector and matrix extensions that matter to kernels, such as ``avx512_vnni``."""
    return frozenset(_cpu()["isa"])


def vector_lanes() -> int:
    """How many fp32 numbers one vector register of the CPU holds: a part of one takes as long as a whole one."""
    sets = instruction_sets()
    return 16 if "avx512f" in sets else 8 if "avx2" in sets else 4


def tool_versions() -> dict[str, str]:
    """Versions of the installed libraries whose code decides a result."""
    versions = {}
    for tool in _TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def fingerprint() -> dict[str, Any]:
    """CPU model, ISA, cores, memory and library versions: what decides a latency."""
    return {
        "cpu": _cpu()["model"],
        "isa": _cpu()["isa"],
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "machine": platform.machine(),
        "system": platform.system(),
        "tools": tool_versions(),
    }


def hardware_id() -> str:
    """The fingerprint's digest, 16 hexadecimal digits."""
    return digest_json(fingerprint())[:16]
