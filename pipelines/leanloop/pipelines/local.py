"""Runs inside the child process of `leanloop.pipelines.launch`: the pipeline on KFP's local runner."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from kfp import local

from leanloop.core.events import emit
from leanloop.core.files import atomic_file, read_json, write_json
from leanloop.pipelines.line import optimize


def main(folder: Path) -> None:
    """Run the line with the arguments in ``request.json``; write ``outputs.json`` when all of it succeeded."""
    emit("run_started")
    # A virtual environment per task would mean a network install per task; ours holds all that steps need.
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "pipeline"), raise_on_error=True)
    task = optimize(**read_json(folder / "request.json"))
    release = Path(task.outputs["Output"].path)
    if not (release / "release.json").is_file():
        raise RuntimeError(f"the pipeline reports success, but {release} holds no release")
    with atomic_file(folder / "report.html") as report:
        shutil.copyfile(release / "report.html", report)
    write_json(folder / "outputs.json", {"release": str(release)})
    emit("run_finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
