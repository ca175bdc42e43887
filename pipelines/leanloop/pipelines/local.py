"""Runs inside the child process of `leanloop.pipelines.launch`: a pipeline on KFP's local runner."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from kfp import local

from leanloop.core.events import emit
from leanloop.core.files import atomic_file, read_json, write_json
from leanloop.pipelines.line import optimize
from leanloop.pipelines.reoptimize import reoptimize
from leanloop.pipelines.retune import retune

PIPELINES = {"optimize": optimize, "reoptimize": reoptimize, "retune": retune}

_NICE = 10
"""Beside a live server, whose requests come first."""


def main(folder: Path) -> None:
    """Run the pipeline of ``request.json``; write ``outputs.json`` when all of it succeeded."""
    request = read_json(folder / "request.json")
    pipeline = PIPELINES[request.pop("pipeline")]
    if cores := request.pop("cores", None):
        os.nice(_NICE)
        os.sched_setaffinity(0, cores)
    emit("run_started")
    # A virtual environment per task would mean a network install per task; ours holds all that steps need.
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "pipeline"), raise_on_error=True)
    task = pipeline(**request)
    release = Path(task.outputs["Output"].path)
    if not (release / "release.json").is_file():
        raise RuntimeError(f"the pipeline reports success, but {release} holds no release")
    if (release / "report.html").exists():
        with atomic_file(folder / "report.html") as report:
            shutil.copyfile(release / "report.html", report)
    write_json(folder / "outputs.json", {"release": str(release)})
    emit("run_finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
