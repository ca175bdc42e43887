"""How much of a loss a repair wins back, what it forgets, and whether quiet returns after it.

The champion is the Fashion-MNIST CNN as ``make demo-optimize`` releases it. A shift is taken at the lowest severity
that costs it 10 points on the test images; one that never does is told with what it costs at most, and nothing is asked
of it. Per seed 3,000 test images are asked under the shift and labelled; the other 7,000 judge the repair, and give 40
windows of further traffic, whose labels come at once. What the gate refuses has won back nothing.

Deploying the winner is left out: ``demo`` measures that on running servers.

    .venv/bin/python benchmarks/loop/recovery.py
    .venv/bin/python benchmarks/loop/recovery.py --shifts blur noise --seeds 1 2    # tuning

Every repair's raw result is kept in ``benchmarks/out``, and an interrupted measurement goes on with the next one. Exit
status 1 tells that a bar was missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
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
    with tempfile.TemporaryDirectory(prefix="leanloop-recovery-") as folder:
        served = Served.fetch(out, Path(folder))
        path = out / "recovery" / "costs.json"
        if not path.exists():
            write_json(path, all_costs(served))
        costs: dict[Shift, list[float]] = {shift: read_json(path)[shift] for shift in shifts}
        found: dict[Shift, list[dict[str, Any]]] = {}
        for shift, cost in costs.items():
            severity = lowest(cost)
            if severity:
                found[shift] = [kept_repair(out, served, shift, severity, seed) for seed in seeds]
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


def kept_repair(out: Path, served: Served, shift: Shift, severity: int, seed: int) -> dict[str, Any]:
    """A repair's raw result: measured now, or kept from before an interruption."""
    path = out / "recovery" / f"{shift}-{severity}-{seed}.json"
    if not path.exists():
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="leanloop-repair-") as name:
            os.environ[EVENTS_VARIABLE] = str(path.with_suffix(".events.jsonl"))
            path.parent.mkdir(parents=True, exist_ok=True)
            found = repair(served, shift, severity, seed, labels=LABELS, windows=WINDOWS, folder=Path(name))
        write_json(path, found)
        print(f"  {shift} {severity}, seed {seed}: {time.monotonic() - started:.0f} s: {told(found)}", flush=True)
    kept: dict[str, Any] = read_json(path)
    return kept


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
