"""``make bench-peers``: our winners beside what others make of the same model, on the same data, in one run.

Peers work in environments of their own (``.tools/peers``, made here), each by the script of it in ``benchmarks/peer``.
They get the original's fp32 ONNX file, its calibration samples and its validation samples with labels. Their files and
ours are then measured in one process by the product's own loop, one thread each, and scored on *test*. Only peers that
keep 99 % of the accuracy count.

    .venv/bin/python benchmarks/peers.py

Finished stages are kept in ``benchmarks/out``; an interrupted bench goes on where it was, and searches that
``techniques.py`` made are taken from there. Exit status 1 tells that a bar was missed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from leanloop.convert import baselines
from leanloop.core.files import write_json, write_text
from leanloop.core.hardware import fingerprint
from leanloop.core.names import code_version

sys.path.insert(0, str(Path(__file__).parent))
import economy
import encoder
from apart import apart
from bench import ROOT, refuse_beside_a_stack, stage
from compiled import CompiledSession
from contest import EAGER, Entrant, Record, contest
from figures import Figure
from others import NNCF, OLIVE, ORT, Peer, make
from picture import bars
from techniques import MINUTES, RESULTS, packed_bundle, results_folder, searched, slug, timed

WINNERS = {1: "everything together, goal batch 1", 32: "everything together, goal batch 32"}
BARS = {1: 3.0, 32: 2.0}
"""Times faster than the best peer, by batch size."""

KEPT = 99.0

PEERS = {
    "ONNX Runtime static": Peer(("plain.py", "static"), ORT, "onnxruntime", "static"),
    "ONNX Runtime dynamic": Peer(("plain.py", "dynamic"), ORT, "onnxruntime", "dynamic"),
    "NNCF": Peer(("nncf_int8.py", "plain"), NNCF, "openvino", "plain"),
    "NNCF with accuracy control": Peer(("nncf_int8.py", "controlled"), NNCF, "openvino", "controlled"),
    "Olive's search at batch 1": Peer(("olive_search.py", "1"), OLIVE, "onnxruntime", "olive-1"),
    "Olive's search at batch 32": Peer(("olive_search.py", "32"), OLIVE, "onnxruntime", "olive-32"),
}
COMPILED = "torch.compile"


def main() -> int:
    refuse_beside_a_stack()
    folder = results_folder()
    print(f"Results in {folder.relative_to(ROOT)}", flush=True)
    ours = {name: stage(folder, slug(name), lambda name=name: searched(folder, name)) for name in WINNERS.values()}
    work = folder / "peers"
    bundle = packed_bundle(folder)
    made = {
        name: stage(folder, f"peer-{slug(name)}", timed(partial(make, peer, bundle, work)))
        for name, peer in PEERS.items()
    }
    measured = stage(folder, "peers-side-by-side", timed(partial(apart, side_by_side, folder, ours, made)))
    lines = judge(made, Record(measured))
    text = encoder.run(folder / "encoder")
    lines += encoder.judge(text)
    saved = {example: [saving(folder, example, seed) for seed in economy.SEEDS] for example in economy.EXAMPLES}
    for example, found in saved.items():
        lines += economy.judge(example, found)
    parts = [*made.values(), measured, *text["peers"].values(), text["ours"], text["contest"]]
    parts += [one for found in saved.values() for one in found]
    minutes = sum(part["bench_seconds"] for part in parts) / 60
    lines.append(Figure("all of this, beside the searches of bench-techniques", minutes, "min", at_most=MINUTES))
    print(*lines, sep="\n")
    document = {
        "figures": [vars(line) for line in lines],
        "ours": ours,
        "peers": made,
        "contest": measured,
        "encoder": text,
        "economy": saved,
    }
    write_json(RESULTS / "peers.json", {"hardware": fingerprint(), "code_version": code_version(), **document})
    for name, contest_of in (("peers", measured), ("text-encoder", text["contest"])):
        times = {model: one["p50_ms"] for model, one in contest_of["models"].items()}
        write_text(RESULTS / f"{name}.svg", bars(times, EAGER, "Times faster than PyTorch eager fp32, one thread"))
    return 0 if all(line.ok for line in lines) else 1


def saving(folder: Path, example: str, seed: int) -> dict[str, Any]:
    """What staging saves on an example, of one seed."""
    name = f"economy-{example}-{seed}"
    return stage(folder, name, timed(partial(apart, economy.measure, folder / name, example, seed)))


def side_by_side(
    folder: Path, ours: Mapping[str, dict[str, Any]], made: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """All in one process."""
    bundle = packed_bundle(folder)
    originals = folder / "peers-originals"
    shutil.rmtree(originals, ignore_errors=True)
    found = baselines(bundle, originals, ("onnxruntime", "openvino"), threads=1)
    entrants = {one.id: Entrant(one.model, originals / one.id) for one in found}
    entrants |= {name: Entrant.from_document(row["winner"]) for name, row in ours.items() if row["winner"]}
    entrants |= {name: Entrant.from_document(row["result"]) for name, row in made.items()}
    with closing(CompiledSession(bundle, threads=1)) as compiled:
        return contest(bundle, entrants, others={COMPILED: compiled})


def judge(made: Mapping[str, dict[str, Any]], record: Record) -> list[Figure]:
    """What each peer reached, then our bars."""
    lines = []
    for name in (*made, COMPILED):
        lines.append(Figure(f"{name}: test accuracy, of the original's", record.kept_percent(name), "%"))
        lines += [
            Figure(f"  over PyTorch eager fp32, batch {batch}", record.times_faster(name, EAGER, batch).value, "x")
            for batch in BARS
        ]
    able = [name for name in (*made, COMPILED) if record.kept_percent(name) >= KEPT]
    for batch, bar in BARS.items():
        winner = WINNERS[batch]
        if winner not in record.found["models"]:
            lines.append(
                Figure(f"goal batch {batch}: no winner, so times faster than the best peer", 0.0, "x", at_least=bar)
            )
            lines.append(Figure(f"goal batch {batch}: no winner, so test accuracy", 0.0, "%", at_least=KEPT))
            continue
        best = min(able, key=lambda name, batch=batch: record.p50_ms(name, batch))  # type: ignore[misc]
        faster = record.times_faster(winner, best, batch)
        kept = record.kept_percent(winner)
        lines.append(Figure(f"goal batch {batch}: times faster than {best}", faster.value, "x", at_least=bar))
        lines.append(Figure(f"goal batch {batch}: test accuracy, of the original's", kept, "%", at_least=KEPT))
    return lines


if __name__ == "__main__":
    sys.exit(main())
