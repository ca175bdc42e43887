"""A transformer text encoder, by post-training techniques alone: ours beside what others make of it, at cosine 0.99."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from apart import apart
from bench import stage
from compiled import CompiledSession
from contest import BATCHES, EAGER, Entrant, Record, contest
from figures import Figure
from others import NNCF, ORT, Peer, make
from peak import GIB, PeakMemory
from techniques import timed

from leanloop.bundle import Bundle
from leanloop.convert import baselines
from leanloop.core.child import run_limited
from leanloop.core.contracts import Artifacts, Verdict
from leanloop.core.settings import load_settings
from leanloop.core.workspace import with_absolute_paths

EXAMPLE = Path(__file__).parents[1] / "examples/text_encoder"
PEERS = {
    "ONNX Runtime static": Peer(("plain.py", "static"), ORT, "onnxruntime", "static"),
    "ONNX Runtime dynamic": Peer(("plain.py", "dynamic"), ORT, "onnxruntime", "dynamic"),
    "NNCF": Peer(("nncf_int8.py", "plain"), NNCF, "openvino", "plain"),
    "NNCF for transformers": Peer(("nncf_int8.py", "transformer"), NNCF, "openvino", "transformer"),
}
COMPILED, WINNER = "torch.compile", "leanloop"
COSINE, FASTER = 99.0, 1.2
SECONDS = 3600.0


def run(folder: Path) -> dict[str, Any]:
    """Our search, the peers, and all of them side by side."""
    subprocess.run([sys.executable, str(EXAMPLE / "fetch.py")], check=True)
    ours = stage(folder, "ours", timed(partial(apart, search, folder / "ours")))
    bundle = Bundle(Path(ours["bundle"]))
    made = {
        name: stage(folder, f"peer-{peer.folder}", timed(partial(make, peer, bundle, folder / "work")))
        for name, peer in PEERS.items()
    }
    measured = stage(folder, "side-by-side", timed(partial(apart, side_by_side, folder, ours, made)))
    return {"ours": ours, "peers": made, "contest": measured}


def side_by_side(folder: Path, ours: Mapping[str, Any], made: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """All in one process."""
    bundle, originals = Bundle(Path(ours["bundle"])), folder / "originals"
    shutil.rmtree(originals, ignore_errors=True)
    found = baselines(bundle, originals, ("onnxruntime", "openvino"), threads=1)
    entrants = {one.id: Entrant(one.model, originals / one.id) for one in found}
    entrants |= {name: Entrant.from_document(one["result"]) for name, one in made.items()}
    entrants[WINNER] = Entrant.from_document(ours["winner"])
    with closing(CompiledSession(bundle, threads=1)) as compiled:
        return contest(bundle, entrants, others={COMPILED: compiled})


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
    if winner is None:
        sys.exit(f"the text encoder has no winner: {verdict.reason}")
    return {
        "winner": Entrant(winner.model, results / "artifacts" / winner.id).document(),
        "recipe": winner.recipe and winner.recipe.model_dump(mode="json"),
        "bundle": str(results / "bundle"),
        "peak_memory_bytes": memory.bytes,
        "trials": [row.model_dump(mode="json") for row in artifacts.trials],
    }


def judge(text: Mapping[str, Any]) -> list[Figure]:
    """What each reached, and ours against the best of those at a cosine of 0.99; the goal is batch 1."""
    record, lines, peers = Record(text["contest"]), [], (*PEERS, COMPILED)
    for name in (*peers, WINNER):
        lines.append(Figure(f"text encoder, {name}: cosine", record.kept_percent(name), "%"))
        lines += [
            Figure(f"  over PyTorch eager fp32, batch {batch}", record.times_faster(name, EAGER, batch).value, "x")
            for batch in BATCHES
        ]
    able = [name for name in peers if record.kept_percent(name) >= COSINE]
    for batch in BATCHES:
        best = min(able, key=lambda name, batch=batch: record.p50_ms(name, batch))  # type: ignore[misc]
        faster = record.times_faster(WINNER, best, batch).value
        bar = FASTER if batch == 1 else None
        lines.append(Figure(f"text encoder, batch {batch}: times faster than {best}", faster, "x", at_least=bar))
    kept, memory = record.kept_percent(WINNER), text["ours"]["peak_memory_bytes"] / GIB
    return [
        *lines,
        Figure("text encoder: cosine of ours", kept, "%", at_least=COSINE),
        Figure("text encoder: peak memory of calibration and search", memory, "GiB", at_most=3),
    ]
