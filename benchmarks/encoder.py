"""A transformer text encoder, by post-training techniques alone: ours beside what others make of it, at cosine 0.99."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from apart import apart, attempted
from bench import stage, timed
from compiled import COMPILED, compiled_or_reason
from contest import BATCHES, EAGER, Entrant, Record, contest, over_the_best
from figures import Figure, Line
from others import NNCF, OLIVE, ORT, Peer, make
from peak import GIB, PeakMemory

from leanloop.bundle import Bundle
from leanloop.convert import baselines
from leanloop.core.child import run_limited
from leanloop.core.contracts import Artifacts, Verdict
from leanloop.core.settings import load_settings
from leanloop.core.workspace import with_absolute_paths

EXAMPLE = Path(__file__).parents[1] / "examples/text_encoder"
COSINE = 99.0
DROP = "0.01"
"""Of the cosine on validation: what the example's own settings allow our search, too."""

PEERS = {
    "ONNX Runtime static": Peer(("plain.py", "static"), ORT, "onnxruntime", "static"),
    "ONNX Runtime dynamic": Peer(("plain.py", "dynamic"), ORT, "onnxruntime", "dynamic"),
    "NNCF": Peer(("nncf_int8.py", "plain"), NNCF, "openvino", "plain"),
    "NNCF for transformers": Peer(("nncf_int8.py", "transformer"), NNCF, "openvino", "transformer"),
    "NNCF with accuracy control": Peer(
        ("nncf_int8.py", "controlled-transformer", DROP), NNCF, "openvino", "controlled-transformer"
    ),
    "Olive's search at batch 1": Peer(("olive_search.py", "1", DROP, "300"), OLIVE, "onnxruntime", "olive-1"),
}
WINNER = "leanloop"
FASTER = 1.2
SECONDS = 3600.0


def run(folder: Path) -> dict[str, Any]:
    """Our search, the peers, and all of them side by side; no contest where not even the bundle was made."""
    subprocess.run([sys.executable, str(EXAMPLE / "fetch.py")], check=True)
    ours = stage(folder, "ours", timed(partial(attempted, search, folder / "ours")))
    if not bundle_folder(folder / "ours").exists():
        return {"ours": ours, "peers": {}, "contest": {"models": {}, "failed": {}, "bench_seconds": 0.0}}
    bundle = Bundle(bundle_folder(folder / "ours"))
    made = {
        name: stage(folder, f"peer-{peer.folder}", timed(partial(make, peer, bundle, folder / "work")))
        for name, peer in PEERS.items()
    }
    measured = stage(folder, "side-by-side", timed(partial(apart, side_by_side, folder, ours, made)))
    return {"ours": ours, "peers": made, "contest": measured}


def side_by_side(folder: Path, ours: Mapping[str, Any], made: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """All in one process."""
    bundle, originals = Bundle(bundle_folder(folder / "ours")), folder / "originals"
    shutil.rmtree(originals, ignore_errors=True)
    found = baselines(bundle, originals, ("onnxruntime", "openvino"), threads=1)
    entrants = {one.id: Entrant(one.model, originals / one.id) for one in found}
    entrants |= {name: Entrant.from_document(one["result"]) for name, one in made.items() if one["result"]}
    if ours["winner"]:
        entrants[WINNER] = Entrant.from_document(ours["winner"])
    with compiled_or_reason(bundle) as (compiled, failed):
        measured = contest(bundle, entrants, others=compiled)
    return {**measured, "failed": measured["failed"] | failed}


def bundle_folder(workspace: Path) -> Path:
    """Where our search leaves its bundle."""
    return workspace / "run/bundle"


def search(workspace: Path) -> dict[str, Any]:
    """The example's own settings, but for serving."""
    settings = with_absolute_paths(load_settings(EXAMPLE / "params.yaml", {"workspace": str(workspace)}), EXAMPLE)
    results = workspace / "run"
    shutil.rmtree(results, ignore_errors=True)
    arguments = {"project": str(EXAMPLE), "folder": str(results), "events": str(results / "events")}
    with PeakMemory() as memory:
        run_limited(
            "leanloop.pipelines.offline:run_offline",
            {"settings": settings.to_json(), **arguments},
            folder=workspace / "process",
            timeout_seconds=SECONDS,
            memory_bytes=psutil.virtual_memory().total,
        )
    verdict, artifacts = Verdict.load(results / "verdict"), Artifacts.load(results / "artifacts")
    winner = next((one for one in artifacts.artifacts if one.id == verdict.winner), None)
    return {
        "reason": verdict.reason,
        "winner": winner and Entrant(winner.model, results / "artifacts" / winner.id).document(),
        "recipe": winner and winner.recipe and winner.recipe.model_dump(mode="json"),
        "peak_memory_bytes": memory.bytes,
        "trials": [row.model_dump(mode="json") for row in artifacts.trials],
    }


def judge(text: Mapping[str, Any]) -> list[Line]:
    """What each reached, and ours against the best of those at a cosine of 0.99; the goal is batch 1."""
    record, peers = Record(text["contest"]), (*PEERS, COMPILED)
    lines: list[Line] = []
    for name in (*peers, WINNER):
        if name not in record:
            made = text["ours"] if name == WINNER else text["peers"].get(name)
            lines.append(record.remark(f"text encoder, {name}", made, key=name))
            continue
        lines.append(Figure(f"text encoder, {name}: cosine", record.kept_percent(name), "%"))
        lines += [
            Figure(f"  over PyTorch eager fp32, batch {batch}", record.times_faster(name, EAGER, batch).value, "x")
            for batch in BATCHES
        ]
    able = [name for name in peers if name in record and record.kept_percent(name) >= COSINE]
    for batch in BATCHES:
        bar = FASTER if batch == 1 else None
        lines.append(over_the_best(record, WINNER, able, batch, f"text encoder, batch {batch}", bar))
    kept = record.kept_percent(WINNER) if WINNER in record else 0.0
    lines.append(Figure("text encoder: cosine of ours", kept, "%", at_least=COSINE))
    memory = text["ours"]["peak_memory_bytes"] / GIB
    if memory:  # nothing is known of a search that broke off
        lines.append(Figure("text encoder: peak memory of calibration and search", memory, "GiB", at_most=3))
    return lines
