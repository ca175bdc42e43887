"""``make bench-loop``: the figures of the closed loop, each with its bar, from one machine in one go.

Each topic is a file of ``benchmarks/loop`` that can be run alone. Topics that are done are kept in ``benchmarks/out``,
beside their raw results: an interrupted bench goes on where it was, and other code, another machine, other seeds or
``make clean`` make it begin anew. Exit status 1 tells that a bar was missed.

    .venv/bin/python benchmarks/bench_loop.py
    .venv/bin/python benchmarks/bench_loop.py judge diagnosis       # these topics only
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from leanloop.core.files import digest_file, digest_json, read_json, write_json
from leanloop.core.hardware import fingerprint, hardware_id

sys.path.insert(0, str(Path(__file__).parent))
from bench import OUT, ROOT, refuse_beside_a_stack
from figures import Figure

TOPICS = (
    "judge",
    "diagnosis",
    "capture",
    "collector",
    "rollouts",
    "objectives",
    "isolation",
    "demo",
    "recovery",
)
"""Modules of ``benchmarks/loop``; each offers ``figures(folder, seed)``."""

SEED = 1_000
"""The first of a record's seeds; those below were used to tune thresholds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="*", default=TOPICS, metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument("--seed", type=int, default=SEED, help=f"the first, {SEED} for the record")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.topics) - set(TOPICS))
    if unknown:
        parser.error(f"there is no topic {', '.join(unknown)}; there are {', '.join(TOPICS)}")
    refuse_beside_a_stack()
    folder = OUT / f"loop-{digest_json([sources(), hardware_id()])[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Results in {folder.relative_to(ROOT)}", flush=True)
    write_json(folder / "hardware.json", fingerprint() | {"sources": sources()})
    missed = []
    for topic in arguments.topics:
        lines = measured(topic, folder, arguments.seed)
        print(*lines, sep="\n", flush=True)
        missed += [line.name for line in lines if not line.ok]
    print(f"{len(missed)} bars missed: {'; '.join(missed)}" if missed else "Every bar holds.")
    return 1 if missed else 0


def sources() -> dict[str, str]:
    """Digests of all that decides the figures: the loop is more than the steps whose results are cached."""
    roots = ("components", "serving", "monitoring", "pipelines", "benchmarks/loop")
    return {
        str(path.relative_to(ROOT)): digest_file(path) for root in roots for path in sorted((ROOT / root).rglob("*.py"))
    }


def measured(topic: str, folder: Path, seed: int) -> list[Figure]:
    """A topic's figures: taken now, or kept from before an interruption."""
    path = folder / f"{topic}-{seed}-figures.json"
    if path.exists():
        print(f"{topic}: kept", flush=True)
    else:
        print(f"{topic} ...", flush=True)
        started = time.monotonic()
        lines = importlib.import_module(f"loop.{topic}").figures(folder, seed)
        write_json(path, [vars(line) for line in lines])
        print(f"{topic}: {time.monotonic() - started:.0f} s", flush=True)
    return [Figure(**line) for line in read_json(path)]


if __name__ == "__main__":
    sys.exit(main())
