"""How much of a loss a repair wins back, what it forgets, and whether quiet returns after it.

The champion is the Fashion-MNIST CNN as ``make demo-optimize`` releases it. A shift is taken at the lowest severity
that costs it 10 points on the test images; one that never does is told with what it costs at most, and nothing is asked
of it. Per seed 3,000 test images are asked under the shift and labelled; the other 7,000 judge the repair, and give 40
windows of further traffic, whose labels come at once. What the gate refuses has won back nothing.

Deploying the winner is left out: ``demo`` measures that on running servers.

    .venv/bin/python benchmarks/loop/recovery.py
    .venv/bin/python benchmarks/loop/recovery.py --shifts blur noise --seeds 1 2    # tuning

As many repairs run at a time as there are cores, each on one of its own: beside a live server a repair has no more.
Every repair's raw result is kept in ``benchmarks/out``, and an interrupted measurement goes on with the rest.
Exit status 1 tells that a bar was missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from statistics import median
from typing import Any

import numpy as np

from leanloop.bundle import correct
from leanloop.core.events import EVENTS_VARIABLE
from leanloop.core.files import read_json, write_json
from leanloop.pipelines.demo.shifts import SEVERITIES, Shift

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import champion
from loop.champion import Served, seen
from loop.repair import repair

SHIFTS: tuple[Shift, ...] = ("brightness", "rotation", "noise", "blur", "class-mix")
COST = 0.1
LABELS = 3_000
WINDOWS = 40
SEEDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shifts", nargs="+", choices=SHIFTS, default=SHIFTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(1_000, 1_000 + SEEDS))
    parser.add_argument("--out", type=Path, default=champion.OUT)
    arguments = parser.parse_args()
    print(f"Results in {arguments.out}", flush=True)
    lines = figures_of(*measure(arguments.out, arguments.shifts, arguments.seeds))
    print(*lines, sep="\n")
    return 0 if all(line.ok for line in lines) else 1


def figures(out: Path, seed: int) -> list[Figure]:
    """All of them, over five seeds from this one on."""
    return figures_of(*measure(out, SHIFTS, range(seed, seed + SEEDS)))


def measure(
    out: Path, shifts: Sequence[Shift], seeds: Sequence[int]
) -> tuple[dict[Shift, list[float]], dict[Shift, list[dict[str, Any]]]]:
    """What every severity of the shifts costs, and all repairs of those that cost enough."""
    path = out / "recovery" / "costs.json"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="leanloop-recovery-") as folder:
            write_json(path, all_costs(Served.fetch(out, Path(folder))))
    costs: dict[Shift, list[float]] = {shift: read_json(path)[shift] for shift in shifts}
    wanted = {shift: severity for shift, cost in costs.items() if (severity := lowest(cost))}
    repair_all(out, [(shift, severity, seed) for shift, severity in wanted.items() for seed in seeds])
    found = {
        shift: [read_json(result_file(out, shift, severity, seed)) for seed in seeds]
        for shift, severity in wanted.items()
    }
    return costs, found


def all_costs(served: Served) -> dict[Shift, list[float]]:
    """Accuracy that the champion loses on the test images, by shift, for each severity."""
    images, classes = served.samples("test")
    right = correct(served.files.answers(images), classes)
    usual, top = right.mean(), classes == 0
    costs: dict[Shift, list[float]] = {}
    for shift in SHIFTS:
        costs[shift] = []
        for severity in SEVERITIES:
            if shift == "class-mix":
                share = 0.1 + 0.1 * severity
                left = share * right[top].mean() + (1 - share) * right[~top].mean()
            else:
                left = served.files.accuracy(seen(images, shift, severity, np.random.default_rng(0)), classes)
            costs[shift].append(float(usual - left))
    return costs


def lowest(costs: Sequence[float]) -> int | None:
    """The lowest severity that costs enough; None when none does."""
    return next((severity for severity, cost in zip(SEVERITIES, costs, strict=True) if cost >= COST), None)


def result_file(out: Path, shift: Shift, severity: int, seed: int) -> Path:
    """Where a repair's raw result is kept."""
    return out / "recovery" / f"{shift}-{severity}-{seed}.json"


def repair_all(out: Path, wanted: Sequence[tuple[Shift, int, int]]) -> None:
    """Have every repair's raw result: measured now, or kept from before an interruption."""
    missing = [one for one in wanted if not result_file(out, *one).exists()]
    os.environ["OMP_NUM_THREADS"] = "1"
    cores, spawn = sorted(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(len(cores), spawn, max_tasks_per_child=1) as pool:
        free = manager.Queue()
        for core in cores:
            free.put(core)
        for done in as_completed([pool.submit(repair_one, out, *one, free) for one in missing]):
            print(done.result(), flush=True)


def repair_one(out: Path, shift: Shift, severity: int, seed: int, free: Queue[int]) -> str:
    """One repair on a core that is free, in a process of its own; returns a line on it."""
    core, started, path = free.get(), time.monotonic(), result_file(out, shift, severity, seed)
    os.sched_setaffinity(0, {core})
    os.environ[EVENTS_VARIABLE] = str(path.with_suffix(".events.jsonl"))
    try:
        with tempfile.TemporaryDirectory(prefix="leanloop-repair-") as name:
            served = Served.fetch(out, Path(name) / "served")
            found = repair(
                served, shift, severity, seed, labels=LABELS, windows=WINDOWS, folder=Path(name) / "workspace"
            )
    finally:
        free.put(core)
    write_json(path, found)
    return f"  {shift} {severity}, seed {seed}: {time.monotonic() - started:.0f} s: {told(found)}"


def told(found: dict[str, Any]) -> str:
    """One line on a repair."""
    cpu = found["cpu_seconds"]
    steps = ", ".join(f"{name} {seconds:.0f} s ({cpu[name]:.0f} of CPU)" for name, seconds in found["seconds"].items())
    if found["refused"]:
        return f"refused ({steps}): {found['refused']}"
    return (
        f"{100 * won_back(found):.0f} % won back, {100 * forgotten(found):.2f} points lost on golden samples, "
        f"{len(found['incidents'])} incidents ({steps})"
    )


def won_back(found: dict[str, Any]) -> float:
    """Share of what the shift cost."""
    if found["refused"]:
        return 0.0
    before = found["champion"]
    return float((found["winner"]["shifted"] - before["shifted"]) / (before["clean"] - before["shifted"]))


def forgotten(found: dict[str, Any], pool: str = "golden") -> float:
    """Accuracy that was lost on what was not shifted."""
    return 0.0 if found["refused"] else float(found["champion"][pool] - found["winner"][pool])


def figures_of(costs: dict[Shift, list[float]], found: dict[Shift, list[dict[str, Any]]]) -> list[Figure]:
    """One line per figure."""
    lines = []
    for shift, cost in costs.items():
        severity = lowest(cost)
        if not severity:
            lines.append(Figure(f"{shift}: costs at most, so no repair is asked for", 100 * max(cost), "points"))
            continue
        repairs = found[shift]
        shares = [100 * won_back(one) for one in repairs]
        seconds = [sum(one["seconds"].values()) for one in repairs]
        lines += [
            Figure(f"{shift} at severity {severity}: costs", 100 * cost[severity - 1], "points"),
            Figure(f"  won back with {LABELS:,} labels, least of {len(repairs)} seeds", min(shares), "%", at_least=80),
            Figure("  won back, median", median(shares), "%"),
            Figure("  lost on golden samples, most", 100 * max(map(forgotten, repairs)), "points", at_most=1),
            Figure(
                "  lost on further clean images, most", 100 * max(forgotten(one, "clean") for one in repairs), "points"
            ),
            Figure(
                f"  incidents in {WINDOWS} windows afterwards, all seeds",
                sum(len(one.get("incidents", ())) for one in repairs),
                "incidents",
                at_most=0,
            ),
            Figure("  snapshot to verdict, median", median(seconds) / 60, "min"),
            Figure("  snapshot to verdict, longest", max(seconds) / 60, "min"),
        ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
