"""Does each fault's test really watch its handling? This takes the handlings away, one by one, and sees the tests fail.

    .venv/bin/python -m tests.faults.sabotage            # all
    .venv/bin/python -m tests.faults.sabotage stub page  # those whose name holds one of these words

It works in a copy of the checkout, so nothing here changes. Each test must pass as the code is, and fail without the
handling. It prints one line per fault, and ends with 1 when a test did not notice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.handlings import TABLE, Sabotage

ROOT = Path(__file__).parents[2]
SOURCES = ("components", "pipelines", "serving", "monitoring")


def main(words: list[str]) -> int:
    """Run the chosen sabotages; returns the exit status."""
    chosen = [one for one in TABLE if not words or any(word in one.fault for word in words)]
    unnoticed, whole = 0, dict[str, bool]()
    with tempfile.TemporaryDirectory(prefix="leanloop-sabotage-") as name:
        copy = Path(name) / "checkout"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for file in filter(None, tracked.split("\0")):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, copy / file)
        (copy / ".tools").symlink_to(ROOT / ".tools")
        for one in chosen:
            started = time.monotonic()
            outcome = try_one(one, copy, whole)
            unnoticed += outcome != "noticed"
            print(f"{outcome:<32} {one.fault:<64} {time.monotonic() - started:4.0f} s", flush=True)
    print(f"{len(chosen) - unnoticed} of {len(chosen)} noticed")
    return 1 if unnoticed else 0


def try_one(one: Sabotage, copy: Path, whole: dict[str, bool]) -> str:
    """``noticed``, or what is wrong.

    Args:
        one: What is taken away.
        copy: Of the checkout.
        whole: Whether a test passes as the code is, by test; kept up to date.
    """
    path = copy / one.file
    source = path.read_text(encoding="utf-8")
    if source.count(one.handling) != 1:
        return f"the handling occurs {source.count(one.handling)} times"
    if one.test not in whole:
        whole[one.test] = passes(one.test, copy)
    if not whole[one.test]:
        return "its test fails as the code is"
    path.write_text(source.replace(one.handling, one.instead), encoding="utf-8")
    try:
        return "NOT NOTICED" if passes(one.test, copy) else "noticed"
    finally:
        path.write_text(source, encoding="utf-8")


def passes(test: str, copy: Path) -> bool:
    """Whether a test passes on the copy, whose sources come before those that are installed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(copy / source) for source in SOURCES),
        "LEANLOOP_TRITON_HOME": str(ROOT / ".tools/triton"),
        # What else is installed brings plugins along, whose imports cost seconds in each of many runs.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "pytest_timeout", "-p", "no:cacheprovider", test],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run {test}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
