"""A winner made again by its own replay script, on a clean checkout of the commit that is benched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leanloop.core.files import read_json

ROOT = Path(__file__).parents[1]
PARTS = ("components", "pipelines", "serving", "monitoring")
FAILED = {"same": False, "metric": 0.0, "before": 1.0}
"""As far apart as can be: what was not made again misses both bars."""


def clean_commit() -> str:
    """The commit that a replay will check out; ends the bench where the benched code is another one."""
    try:
        changed, commit = git("status", "--porcelain", "--", "components"), git("rev-parse", "HEAD")
    except RuntimeError as error:
        sys.exit(f"A winner is made again on a clean checkout, and git gives none: {error}")
    if changed:
        sys.exit(
            "A winner is made again on a clean checkout of HEAD, which would be other code than is benched here. "
            f"Commit or undo the changes under components/ first:\n{changed}"
        )
    return commit


def git(*arguments: str, folder: Path = ROOT) -> str:
    """What git answers; raises RuntimeError where it refuses."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.rstrip()


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """A clean checkout of a commit; it is removed at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
    try:
        git("checkout", "--quiet", "--detach", commit, folder=folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replay(row: Mapping[str, Any], commit: str, folder: Path) -> dict[str, Any]:
    """A winner made again by its own script, in a store of its own: its id and its metric on validation.

    Args:
        row: Of the search.
        commit: To check out.
        folder: For the checkout.
    """
    if not row["winner"]:
        return FAILED | {"reason": "there is no winner"}
    run = Path(row["bundle"]).parent
    script = next(run.glob(f"candidates/worker-*/{row['id']}/reproduce.sh"), None)
    if script is None:
        return FAILED | {"reason": f"{run} has no replay script of {row['id']}"}
    try:
        with checkout(commit, folder) as clean:
            return {**carried_out(script, clean), "commit": commit}
    except RuntimeError as error:
        return FAILED | {"reason": str(error), "commit": commit}


def carried_out(script: Path, clean: Path) -> dict[str, Any]:
    """What a replay script finds with the code of a checkout; which files that code was imported from is told, too."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # Before the installed package, which is the working tree.
        "PYTHONPATH": os.pathsep.join(str(clean / part) for part in PARTS),
    }
    where = (
        "import leanloop.core.child as a, leanloop.optimize.candidate as b; print(a.__file__, b.__file__, sep='\\n')"
    )
    asked = ["python", "-c", where]
    told = subprocess.run(asked, check=False, capture_output=True, text=True, env=environment, cwd=script.parent)
    imported = told.stdout.split("\n")[:-1]
    if told.returncode or not all(Path(one).is_relative_to(clean) for one in imported):
        reason = f"the checkout's code is not what Python imports: {imported or told.stderr[-500:]}"
        return FAILED | {"reason": reason, "imported": imported}
    done = subprocess.run(["sh", str(script)], check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        return FAILED | {"reason": done.stderr[-2_000:], "imported": imported}
    found = json.loads(done.stdout[done.stdout.rindex("{") :])
    before = read_json(script.with_name("candidate.json"))
    same = found["candidate"] == before["id"] and found["metric"] is not None
    return {"same": same, "metric": found["metric"] or 0.0, "before": before["metric"], "imported": imported}
