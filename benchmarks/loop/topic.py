"""The command of a topic that is run alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from leanloop.core.files import digest_json
from leanloop.core.hardware import hardware_id
from leanloop.core.names import code_version

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure

ROOT = Path(__file__).parents[2]


def main(figures: Callable[[Path, int], list[Figure]], description: str | None) -> int:
    """Print a topic's figures; returns 1 where a bar was missed.

    Args:
        figures: Takes the folder of the results and the first seed.
        description: For ``--help``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1_000, help="the first; below 1,000 is for tuning")
    version = digest_json([code_version(), hardware_id()])[:12]
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/out" / version / "loop")
    arguments = parser.parse_args()
    print(f"Results in {arguments.out}", flush=True)
    lines = figures(arguments.out, arguments.seed)
    print(*lines, sep="\n", flush=True)
    return 0 if all(line.ok for line in lines) else 1
