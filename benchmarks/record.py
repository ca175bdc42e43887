"""What a bench puts into ``benchmarks/results``: files that are committed, and so name nothing of one machine."""

from __future__ import annotations

from typing import Any

from bench import ROOT
from figures import EAGER
from picture import bars

from leanloop.core.files import write_json, write_text
from leanloop.core.hardware import fingerprint
from leanloop.core.names import code_version

RESULTS = ROOT / "benchmarks/results"


def write_record(name: str, document: dict[str, Any]) -> None:
    """A bench's figures and what they were taken from, with the hardware and the versions."""
    whole = {"hardware": fingerprint(), "code_version": code_version(), **document}
    write_json(RESULTS / f"{name}.json", relative(whole))


def draw_record(name: str, models: dict[str, Any]) -> None:
    """How much faster than PyTorch eager each model of a contest is, as a picture."""
    latency = {model: one["p50_ms"] for model, one in models.items()}
    write_text(RESULTS / f"{name}.svg", bars(latency, EAGER, "Times faster than PyTorch eager fp32, one thread"))


def relative(value: Any) -> Any:
    """The same, with the files of this checkout named from its root."""
    if isinstance(value, str):
        return value.replace(f"{ROOT}/", "")
    if isinstance(value, dict):
        return {relative(key): relative(one) for key, one in value.items()}
    return [relative(one) for one in value] if isinstance(value, list | tuple) else value
