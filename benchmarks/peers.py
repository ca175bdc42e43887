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
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from leanloop.bundle import Bundle
from leanloop.convert import baselines
from leanloop.core.files import digest_json

sys.path.insert(0, str(Path(__file__).parent))
import economy
import encoder
from apart import apart, attempted
from bench import ROOT, refuse_beside_a_stack, stage, timed
from compiled import COMPILED, compiled_or_reason
from contest import EAGER, Entrant, Record, contest, over_the_best
from figures import Figure, Line
from others import NNCF, OLIVE, ORT, Peer, make
from peak import PeakMemory
from record import draw_record, write_record
from rows import KEPT_99
from techniques import MINUTES, digests, packed_bundle, results_folder, searched, slug

WINNERS = {1: "everything together, goal batch 1", 32: "everything together, goal batch 32"}
BARS = {1: 3.0, 32: 2.0}
"""Times faster than the best peer, by batch size."""

KEPT = 99.0
OLIVE_SECONDS = "480"

PEERS = {
    "ONNX Runtime static": Peer(("plain.py", "static"), ORT, "onnxruntime", "static"),
    "ONNX Runtime dynamic": Peer(("plain.py", "dynamic"), ORT, "onnxruntime", "dynamic"),
    "NNCF": Peer(("nncf_int8.py", "plain"), NNCF, "openvino", "plain"),
    "NNCF with accuracy control": Peer(("nncf_int8.py", "controlled", str(KEPT_99)), NNCF, "openvino", "controlled"),
    "Olive's search at batch 1": Peer(
        ("olive_search.py", "1", str(KEPT_99), OLIVE_SECONDS), OLIVE, "onnxruntime", "olive-1"
    ),
    "Olive's search at batch 32": Peer(
        ("olive_search.py", "32", str(KEPT_99), OLIVE_SECONDS), OLIVE, "onnxruntime", "olive-32"
    ),
}


SOURCES = (
    *(f"benchmarks/{name}.py" for name in ("compiled", "economy", "encoder", "others", "peers")),
    "benchmarks/peer/*.py",
    *(f"examples/{name}/*.{kind}" for name in ("digits", "text_encoder") for kind in ("py", "yaml", "safetensors")),
)
"""What decides this bench's own figures, beside what decides those of ``techniques.py``."""


def main() -> int:
    refuse_beside_a_stack()
    shared = results_folder()
    folder = shared / f"peers-{digest_json(digests(SOURCES))[:12]}"
    print(f"Results in {folder.relative_to(ROOT)}", flush=True)
    ours = {name: stage(shared, slug(name), partial(searched, shared, name, "peers")) for name in WINNERS.values()}
    bundle = packed_bundle(shared)
    made = {
        name: stage(folder, f"peer-{slug(name)}", timed(partial(make, peer, bundle, folder / "made")))
        for name, peer in PEERS.items()
    }
    measured = stage(folder, "side-by-side", timed(partial(apart, side_by_side, folder, bundle.folder, ours, made)))
    lines = judge(ours, made, Record(measured))
    text = encoder.run(folder / "encoder")
    lines += encoder.judge(text)
    saved = {example: [saving(folder, example, seed) for seed in economy.SEEDS] for example in economy.EXAMPLES}
    for example, found in saved.items():
        lines += economy.judge(example, found)
    parts = [*made.values(), measured, *text["peers"].values(), text["ours"], text["contest"]]
    parts += [one for found in saved.values() for one in found]
    lines += times(ours.values(), parts)
    print(*lines, sep="\n")
    document = {
        "figures": [vars(line) for line in lines],
        "ours": ours,
        "peers": made,
        "contest": measured,
        "encoder": text,
        "economy": saved,
    }
    write_record("peers", document)
    for name, contest_of in (("peers", measured), ("text-encoder", text["contest"])):
        if EAGER in contest_of["models"]:
            draw_record(name, contest_of["models"])
    return 0 if all(line.ok for line in lines) else 1


def saving(folder: Path, example: str, seed: int) -> dict[str, Any]:
    """What staging saves on an example, of one seed, and the memory that it takes."""
    name = f"economy-{example}-{seed}"

    def watched() -> dict[str, Any]:
        # From outside: the plain search takes its times in the very process that works.
        with PeakMemory(own=False) as memory:
            found = attempted(economy.measure, folder / name, example, seed)
        return {**found, "peak_memory_bytes": memory.bytes}

    return stage(folder, name, timed(watched))


def times(ours: Collection[Mapping[str, Any]], parts: Collection[Mapping[str, Any]]) -> list[Figure]:
    """What all took, with and without our searches; the bar is for what this command ran, in however many attempts."""
    without = sum(part["bench_seconds"] for part in parts) / 60
    searches = sum(one["bench_seconds"] for one in ours) / 60
    own = without + sum(one["bench_seconds"] for one in ours if one["made_by"] == "peers") / 60
    return [
        Figure("all of this, without our searches", without, "min"),
        Figure("all of this, with our searches", without + searches, "min"),
        Figure("what this command ran itself", own, "min", at_most=MINUTES),
    ]


def side_by_side(
    folder: Path, bundle_folder: Path, ours: Mapping[str, dict[str, Any]], made: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """All in one process."""
    bundle = Bundle(bundle_folder)
    originals = folder / "originals"
    shutil.rmtree(originals, ignore_errors=True)
    found = baselines(bundle, originals, ("onnxruntime", "openvino"), threads=1)
    entrants = {one.id: Entrant(one.model, originals / one.id) for one in found}
    entrants |= {name: Entrant.from_document(row["winner"]) for name, row in ours.items() if row["winner"]}
    entrants |= {name: Entrant.from_document(row["result"]) for name, row in made.items() if row["result"]}
    with compiled_or_reason(bundle) as (compiled, failed):
        measured = contest(bundle, entrants, others=compiled)
    return {**measured, "failed": measured["failed"] | failed}


def judge(ours: Mapping[str, Any], made: Mapping[str, dict[str, Any]], record: Record) -> list[Line]:
    """What each peer reached, then our bars."""
    lines: list[Line] = []
    for name in (*made, COMPILED):
        if name not in record:
            lines.append(record.remark(name, made.get(name), key=name))
            continue
        lines.append(Figure(f"{name}: test accuracy, of the original's", record.kept_percent(name), "%"))
        lines += [
            Figure(f"  over PyTorch eager fp32, batch {batch}", record.times_faster(name, EAGER, batch).value, "x")
            for batch in BARS
        ]
    able = [name for name in (*made, COMPILED) if name in record and record.kept_percent(name) >= KEPT]
    for batch, bar in BARS.items():
        winner, words = WINNERS[batch], f"goal batch {batch}"
        if winner not in record:
            lines.append(record.remark(winner, ours[winner], key=winner))
        lines.append(over_the_best(record, winner, able, batch, words, bar))
        kept = record.kept_percent(winner) if winner in record else 0.0
        lines.append(Figure(f"{words}: test accuracy, of the original's", kept, "%", at_least=KEPT))
    return lines


if __name__ == "__main__":
    sys.exit(main())
