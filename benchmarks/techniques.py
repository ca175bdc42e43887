"""``make bench-techniques``: what each technique makes of the Fashion-MNIST CNN, and all of them together.

A row of one technique is a ladder of fixed recipes, the one that takes most first: the first that keeps the row's
accuracy on *validation* is the row's. The rows of a search are whole searches by the product. Then all rows and the
fp32 originals are measured side by side at batch 1 and at batch 32, and scored on *test*.

    .venv/bin/python benchmarks/techniques.py

Finished stages are kept in ``benchmarks/out``; an interrupted bench goes on where it was. The record goes to
``benchmarks/results`` when all rows were measured. Exit status 1 tells that a bar was missed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from leanloop.bundle import Bundle
from leanloop.convert import baselines
from leanloop.core.contracts import Candidate, RecipeRecord
from leanloop.core.files import digest_file, digest_json
from leanloop.core.hardware import hardware_id, usable_cores
from leanloop.core.names import code_version
from leanloop.core.settings import GoalSettings, load_settings
from leanloop.core.workspace import with_absolute_paths
from leanloop.optimize import Recipe
from leanloop.optimize.candidate import finish_one, original_validation
from leanloop.optimize.plan import Job
from leanloop.steps import bundle as bundle_step

sys.path.insert(0, str(Path(__file__).parent))
from apart import apart, attempted
from bench import OUT, ROOT, refuse_beside_a_stack, stage, timed
from contest import BATCHES, EAGER, Entrant, Record, contest
from figures import Figure, Line, Remark
from peak import GIB, PeakMemory
from record import draw_record, write_record
from remade import clean_commit, replay
from rows import LADDERS, REPLAYED, SEARCHES, Bars
from search import STUDENT, search

MINUTES = 90
SOURCES = (
    "params.yaml",
    *(
        f"benchmarks/{name}.py"
        for name in ("apart", "bench", "contest", "peak", "remade", "rows", "search", "techniques")
    ),
    *(f"components/leanloop/{part}/*.py" for part in ("steps", "select")),
    "pipelines/leanloop/pipelines/offline.py",
    *(f"examples/fashion_mnist/*.{kind}" for kind in ("py", "yaml", "safetensors")),
)
"""What decides the figures beside what `code_version` tells; nothing that a bench writes."""


def main() -> int:
    refuse_beside_a_stack()
    commit = clean_commit()
    folder = results_folder()
    print(f"Results in {folder.relative_to(ROOT)}", flush=True)
    made = {name: stage(folder, slug(name), timed(partial(attempted, ladder, folder, name))) for name in LADDERS}
    made |= {name: stage(folder, slug(name), partial(searched, folder, name, "techniques")) for name in SEARCHES}
    again = stage(folder, "replay", timed(partial(replay, made[REPLAYED], commit, folder / "checkout")))
    measured = stage(folder, "techniques-side-by-side", timed(partial(apart, side_by_side, folder, made)))
    lines = judge(made, again, Record(measured))
    minutes = sum(one["bench_seconds"] for one in (*made.values(), again, measured)) / 60
    lines.append(Figure("all of this", minutes, "min", at_most=MINUTES))
    print(*lines, sep="\n")
    document = {"figures": [vars(line) for line in lines], "rows": made, "replay": again, "contest": measured}
    write_record("techniques", document)
    draw_record("techniques", measured["models"])
    return 0 if all(line.ok for line in lines) else 1


def results_folder() -> Path:
    """Of all that decides the figures, and the machine; the benches of the optimiser share it."""
    return OUT / f"optimiser-{digest_json([code_version(), hardware_id(), digests(SOURCES)])[:12]}"


def digests(kinds: Iterable[str]) -> dict[str, str]:
    """Of the project's files that match."""
    return {str(file.relative_to(ROOT)): digest_file(file) for kind in kinds for file in sorted(ROOT.glob(kind))}


def slug(name: str) -> str:
    """A file name."""
    return "row-" + name.lower().replace(",", "").replace(":", "-").replace(" ", "-")


def searched(folder: Path, name: str, by: str) -> dict[str, Any]:
    """A row of a search, timed; the peers' bench takes it, too, and a record tells which of the two made it."""
    made = timed(partial(attempted, search, folder / "searches", folder / slug(name), SEARCHES[name][1]))()
    return {**made, "made_by": by}


def packed_bundle(folder: Path) -> Bundle:
    """The example's bundle, made once."""
    path = folder / "bundle"
    if not path.exists():
        settings = load_settings(ROOT / "params.yaml", {**STUDENT, "workspace": str(folder.resolve())})
        bundle_step.run(with_absolute_paths(settings, ROOT), project=ROOT, bundle=path)
    return Bundle(path)


def ladder(folder: Path, name: str) -> dict[str, Any]:
    """The first recipe of a row that keeps the row's accuracy on validation; else the last one, for the record."""
    bundle = packed_bundle(folder)
    asked, recipes = LADDERS[name]
    job = Job(
        bundle=str(bundle.folder),
        store=str(folder / "store"),
        goal=GoalSettings(max_accuracy_drop=1 - asked.kept_percent / 100),
        threads=usable_cores(),
        trial=-1,
        folder=str(folder / "process"),
    )
    workshop, tried, made = job.workshop(), [], None
    limit = asked.kept_percent / 100 * original_metric(job)
    with PeakMemory() as memory:
        for target, techniques in recipes:
            recipe = Recipe.from_record(RecipeRecord(target=target, techniques=tuple(techniques)))  # type: ignore[arg-type]
            row = finish_one(recipe, job, workshop)
            tried.append(row.model_dump(mode="json"))
            made = row if row.state == "complete" else made
            if row.state == "complete" and row.metric is not None and row.metric >= limit:
                break
    if made is None:
        reason = f"no recipe could be carried out: {tried[-1]['reason']}"
        return {"winner": None, "reason": reason, "tried": tried, "peak_memory_bytes": memory.bytes}
    files = folder / slug(name)
    workshop.store.get_folder(f"candidates/{made.candidate_id}", files)
    return {
        "winner": Entrant(Candidate.load(files).model, files).document(),
        "recipe": made.recipe.model_dump(mode="json"),
        "tried": tried,
        "peak_memory_bytes": memory.bytes,
    }


def original_metric(job: Job) -> float:
    """Of the original on validation."""
    workshop = job.workshop()
    outputs, validation = original_validation(workshop), workshop.bundle.split("validation")
    return workshop.bundle.score(outputs, validation, outputs)


def side_by_side(folder: Path, made: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """All rows that have a model, and the original in fp32 in each runtime."""
    bundle, originals = packed_bundle(folder), folder / "originals"
    shutil.rmtree(originals, ignore_errors=True)
    found = baselines(bundle, originals, ("onnxruntime", "openvino"), threads=1)
    entrants = {one.id: Entrant(one.model, originals / one.id) for one in found}
    entrants |= {name: Entrant.from_document(row["winner"]) for name, row in made.items() if row["winner"]}
    return contest(bundle, entrants)


def judge(made: Mapping[str, dict[str, Any]], again: Mapping[str, Any], record: Record) -> list[Line]:
    """All figures, row by row."""
    asked = {name: row[0] for name, row in (LADDERS | SEARCHES).items()}
    lines: list[Line] = []
    for name, row in made.items():
        if name in record:
            lines += row_figures(name, asked[name], record)
        else:
            lines += [record.remark(name, row, key=name), *missing(name, asked[name])]
    if "reason" in again:
        lines.append(Remark(f"{REPLAYED}: not made again: {again['reason']}"))
    memory = max(row["peak_memory_bytes"] for row in made.values()) / GIB
    apart = 100 * abs(again["metric"] - again["before"])
    return [
        *lines,
        Figure(f"{REPLAYED}: made again, the same recipe's id", float(again["same"]), "yes", at_least=1),
        Figure(f"{REPLAYED}: made again, accuracy apart", apart, "points", at_most=0.3),
        Figure("peak memory of all rows: calibration, training, search", memory, "GiB", at_most=3),
    ]


def row_figures(name: str, asked: Bars, record: Record) -> list[Figure]:
    """A row's figures; each speed at both batch sizes, and the one that counts against its bar."""
    what = "bytes, both sides gzipped" if asked.packed else "bytes"
    lines = [
        Figure(f"{name}: {what}", record.bytes_percent(name, packed=asked.packed), "%", at_most=asked.bytes_percent)
    ]
    fp32 = f"original-{record.runtime(name)}-fp32"
    for other, words, bar in ((EAGER, "PyTorch eager fp32", asked.over_eager), (fp32, fp32[9:], asked.over_fp32)):
        faster = {batch: record.times_faster(name, other, batch) for batch in BATCHES}
        for batch, interval in faster.items():
            counts = bar is not None and batch == asked.batch
            unit = f"x [{interval.low:.2f}, {interval.high:.2f}]"
            value = interval.value
            lines.append(Figure(f"  over {words}, batch {batch}", value, unit, at_least=bar if counts else None))
        if bar is not None and asked.batch is None:
            better = max(interval.value for interval in faster.values())
            lines.append(Figure(f"{name}: over {words}, the better of both", better, "x", at_least=bar))
    kept = record.kept_percent(name)
    return [*lines, Figure(f"{name}: test accuracy, of the original's", kept, "%", at_least=asked.kept_percent)]


def missing(name: str, asked: Bars) -> list[Figure]:
    """The lines of a row without a winner: each bar is missed."""
    lines = [
        Figure(f"{name}: no winner; bytes", 100.0, "%", at_most=asked.bytes_percent),
        Figure(f"{name}: no winner; over PyTorch eager fp32", 0.0, "x", at_least=asked.over_eager),
        Figure(f"{name}: no winner; test accuracy, of the original's", 0.0, "%", at_least=asked.kept_percent),
    ]
    if asked.over_fp32 is not None:
        lines.append(Figure(f"{name}: no winner; over fp32 on its runtime", 0.0, "x", at_least=asked.over_fp32))
    return lines


if __name__ == "__main__":
    sys.exit(main())
