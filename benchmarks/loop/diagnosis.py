"""Whether the loop gets the cause right: incidents over all rows of the table, replayed through the live code.

What is injected decides which row is right (`loop.scenarios`), not what the metrics say. An incident is judged by the
row that the loop acts on first, whenever that is; one that it never acts on (it records, waits, or sees nothing) by the
row that stands at the end, a fixed number of windows after the fault began. It is right when the row is, and its action
was carried out. Each kind is replayed under several seeds, which draw images, shift and severity, pace of the traffic,
and how much is broken. Quiet replays, where nothing is wrong, are counted apart.

Settings are the defaults, except for the label horizon, which is in windows. Seeds below 1,000 were used for tuning.

    taskset -c 1 .venv/bin/python benchmarks/loop/diagnosis.py
    .venv/bin/python benchmarks/loop/diagnosis.py --seed 0 --only "a killed server" --each 1
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from leanloop.core.files import write_json
from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.diagnosis import TABLE, UNFORESEEN

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import champion
from loop.cast import gathered
from loop.replay import Outcome, as_data, replay
from loop.scenarios import INCIDENTS, QUIET, Scenario

EACH = 3
"""Seeds per kind."""

LEAST_INCIDENTS, LEAST_MIXED, LEAST_RIGHT = 60, 20.0, 95.0


# Pages are part of what is replayed, and nobody is to be told of them.
logging.getLogger("leanloop.monitoring").addHandler(logging.NullHandler())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1_000, help="the first; below 1,000 is for tuning")
    parser.add_argument("--each", type=int, default=EACH, help="seeds per kind")
    parser.add_argument("--only", nargs="+", help="names of kinds, for tuning")
    parser.add_argument("--out", type=Path, default=champion.OUT)
    arguments = parser.parse_args()
    print(f"Results in {arguments.out}", flush=True)
    chosen = [one for one in (*INCIDENTS, *QUIET) if arguments.only is None or one.name in arguments.only]
    outcomes = measured(arguments.out, arguments.seed, chosen, arguments.each)
    if arguments.only is not None:
        return 0
    lines = figures_of(outcomes)
    print(*lines, sep="\n", flush=True)
    return 0 if all(line.ok for line in lines) else 1


def figures(out: Path, seed: int) -> list[Figure]:
    """All of them; raw results go to ``diagnosis-<seed>.json``."""
    return figures_of(measured(out, seed, (*INCIDENTS, *QUIET), EACH))


def measured(out: Path, seed: int, chosen: Sequence[Scenario], each: int) -> list[Outcome]:
    """Replay every kind under its seeds, telling those that come out wrong."""
    outcomes: list[Outcome] = []
    started, cpu = time.monotonic(), time.process_time()
    with gathered(out) as cast:
        for scenario in chosen:
            place = (*INCIDENTS, *QUIET).index(scenario)
            for index in range(each):
                outcome = replay(scenario, cast, seed + index, place)
                outcomes.append(outcome)
                print(f"  {_told(outcome)}", flush=True)
    spent = f"{time.monotonic() - started:.0f} s, {time.process_time() - cpu:.0f} s of one core"
    print(f"  {len(outcomes)} replays: {spent}", flush=True)
    raw: dict[str, Any] = {"seed": seed, "settings": MonitoringSettings().model_dump(mode="json")}
    write_json(out / f"diagnosis-{seed}.json", raw | {"replays": [as_data(one) for one in outcomes]})
    return outcomes


def _told(outcome: Outcome) -> str:
    shift, severity = outcome.shift
    what = f"{outcome.scenario} ({shift} {severity}, seed {outcome.seed})"
    if outcome.right:
        return f"ok     {what}"
    seen = " -> ".join(cause for _, cause in outcome.rows)
    undone = "" if outcome.done else ", which was not carried out"
    return f"WRONG  {what}: expected {outcome.expected!r}, found {outcome.found!r}{undone}; rows: {seen}"


def figures_of(outcomes: Sequence[Outcome]) -> list[Figure]:
    """One line per figure."""
    incidents = [one for one in outcomes if one.scenario in {scenario.name for scenario in INCIDENTS}]
    quiet = [one for one in outcomes if one not in incidents]
    rows = {one.expected for one in outcomes} & {row.cause for row in (*TABLE, UNFORESEEN)}
    return [
        Figure("diagnosis: incidents", len(incidents), "incidents", at_least=LEAST_INCIDENTS),
        Figure("diagnosis: rows of the table that they are over", len(rows), "rows", at_least=len(TABLE) + 1),
        Figure("diagnosis: two faults at once", _share(one.mixed for one in incidents), "%", at_least=LEAST_MIXED),
        Figure("diagnosis: the right row", _share(one.right for one in incidents), "%", at_least=LEAST_RIGHT),
        Figure("  of two faults at once", _share(one.right for one in incidents if one.mixed), "%"),
        Figure("diagnosis: quiet traffic that stays so", _share(one.right for one in quiet), "%", at_least=LEAST_RIGHT),
    ]


def _share(answers: Sequence[bool] | Any) -> float:
    known = list(answers)
    return 100 * sum(known) / len(known)


if __name__ == "__main__":
    sys.exit(main())
