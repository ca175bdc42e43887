"""Models measured against each other in one process: the same batches, one thread each, blocks that alternate.

What a record of a contest holds is plain JSON, so that an interrupted bench goes on with it; `Record` reads it.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apart import reason_of
from figures import EAGER, Figure, Remark

from leanloop.benchmark import compare_latency
from leanloop.benchmark.statistics import ratio_interval
from leanloop.bundle import Bundle
from leanloop.core.contracts import Interval, ModelFiles
from leanloop.core.hardware import usable_cores
from leanloop.core.settings import BenchmarkSettings
from leanloop.runtime import Session, open_session, original_outputs, predict

BATCHES = (1, 32)
BLOCKS = 30


@dataclass(frozen=True)
class Entrant:
    """A model that takes part.

    Attributes:
        model: Its files.
        folder: That their names are relative to.
    """

    model: ModelFiles
    folder: Path

    @property
    def packed_bytes(self) -> int:
        """All its files, each compressed by gzip."""
        return sum(gzipped(self.folder / name) for name in self.model.files)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"model": self.model.model_dump(mode="json"), "folder": str(self.folder)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Entrant:
        """From JSON."""
        return cls(ModelFiles.model_validate(document["model"]), Path(document["folder"]))


def gzipped(file: Path) -> int:
    """Bytes of a file that gzip compressed."""
    return len(gzip.compress(file.read_bytes(), mtime=0))


def contest(
    bundle: Bundle, entrants: Mapping[str, Entrant], *, threads: int = 1, others: Mapping[str, Session] | None = None
) -> dict[str, Any]:
    """Measure models against each other, and score each on the test split.

    Args:
        bundle: Of the original.
        entrants: By name; one of them is `EAGER` where the original is a PyTorch module.
        threads: CPU threads of each.
        others: Open models that are no files of ours.

    Returns:
        By name: bytes, the metric on ``test``, the runtime's description, and per batch size the blocks' medians; and
        what could not be run, with the reason.
    """
    test = bundle.split("test")
    reference = None if bundle.metric.needs_labels else original_outputs(bundle, test)
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name in (*(others or {}), *entrants):
            try:
                if name in entrants:
                    entrant = entrants[name]
                    session = open_session(entrant.model, entrant.folder, threads=threads, bundle=bundle)
                    stack.callback(session.close)
                else:
                    session = (others or {})[name]
                metric = bundle.score(predict(session, test, outputs=bundle.manifest.outputs), test, reference)
                if not math.isfinite(metric):
                    raise ValueError(f"its metric is {metric}")
            except Exception as error:
                if name == EAGER:
                    raise
                failed[name] = reason_of(error)
                continue
            sessions[name] = session
            found[name] = {"metric": metric, "runtime": session.description, "p50_ms": {}, "blocks_ms": {}}
        settings = BenchmarkSettings(batch_sizes=BATCHES, blocks=BLOCKS)
        for name, measured in compare_latency(sessions, bundle.samples, settings, BATCHES).items():
            for one in measured:
                found[name]["p50_ms"][str(one.batch_size)] = one.p50_ms.model_dump()
                found[name]["blocks_ms"][str(one.batch_size)] = list(one.block_medians_ms)
    for name in found.keys() & entrants.keys():
        entrant = entrants[name]
        found[name] |= {"size_bytes": entrant.model.size_bytes, "packed_bytes": entrant.packed_bytes}
    return {
        "models": found,
        "failed": failed,
        "original": {"size_bytes": bundle.manifest.weights_bytes, "packed_bytes": gzipped(bundle.weights)},
        "samples": len(test),
        "cores": usable_cores(),
    }


@dataclass(frozen=True)
class Record:
    """Reads what `contest` found."""

    found: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        """Whether a model took part."""
        return name in self.found["models"]

    def remark(self, words: str, made: Mapping[str, Any] | None = None, *, key: str) -> Remark:
        """What is said of a model that took no part: why it could not be run, or was not made."""
        reason = self.found["failed"].get(key) or (made or {}).get("reason") or "it was not there"
        return Remark(f"{words}: nothing that can be measured: {reason}")

    def times_faster(self, name: str, other: str, batch: int) -> Interval:
        """How many times as long as one model's call another's takes; paired over the blocks of a round."""
        mine, its = (self.found["models"][one]["blocks_ms"][str(batch)] for one in (name, other))
        return ratio_interval(its, mine)

    def bytes_percent(self, name: str, *, packed: bool = False) -> float:
        """Of the original's weights file; packed: both sides compressed by gzip."""
        key = "packed_bytes" if packed else "size_bytes"
        return 100 * float(self.found["models"][name][key] / self.found["original"][key])

    def kept_percent(self, name: str, original: str = EAGER) -> float:
        """The test metric, of the original's."""
        return 100 * float(self.found["models"][name]["metric"] / self.found["models"][original]["metric"])

    def p50_ms(self, name: str, batch: int) -> float:
        """Median latency in milliseconds."""
        return float(self.found["models"][name]["p50_ms"][str(batch)]["value"])

    def runtime(self, name: str) -> str:
        """Such as ``openvino``: by its description."""
        return str(self.found["models"][name]["runtime"]["runtime"]).split()[0]


def over_the_best(
    record: Record, winner: str, able: Sequence[str], batch: int, words: str, at_least: float | None
) -> Figure:
    """How many times faster a winner is than the best of others; 0 where there is no winner, or nobody to beat."""
    if winner not in record:
        return Figure(f"{words}: no winner, so times faster than the best peer", 0.0, "x", at_least=at_least)
    if not able:
        return Figure(f"{words}: no peer holds the accuracy, so times faster", 0.0, "x", at_least=at_least)
    best = min(able, key=lambda name: record.p50_ms(name, batch))
    faster = record.times_faster(winner, best, batch).value
    return Figure(f"{words}: times faster than {best}", faster, "x", at_least=at_least)
