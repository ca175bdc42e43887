"""A rollout in a process of its own that kills itself at a given moment: python -m tests.serving.rollout_child."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanloop.serving import Journal, ModelRepository, Rollout, TritonClient, promote, roll_back
from leanloop.serving.model_config import FILE_NAME
from tests.serving.conftest import CHOICE, Models, linear_spec


def kill_after(owner: type, method: str, moment: Callable[..., bool]) -> None:
    original = getattr(owner, method)

    def watched(*arguments: Any) -> Any:
        done = original(*arguments)
        if moment(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, method, watched)


def main(job: dict[str, Any]) -> None:
    moment = job["moment"]

    def appeared(_: Path, target: Path) -> bool:
        if moment == "configured":
            return target.name == FILE_NAME
        return target.name == Rollout.filename and Rollout.load(target.parent).state == moment

    if moment == "loaded":
        kill_after(TritonClient, "load", lambda *_: True)
    else:
        # All files get their names by this call, once they are whole.
        kill_after(Path, "replace", appeared)
    repository = ModelRepository(Path(job["repository"]))
    journal = Journal(repository.root.parent)
    models = Models(Path(job["packages"]))
    spec = linear_spec(job["model"])
    with TritonClient(job["http_url"], job["grpc_url"], token=job["token"]) as client:
        if job["what"] == "roll back":
            roll_back(client, repository, journal, spec.name, "bad")
            return
        packages = [models.linear(1.0), models.linear(3.0)]
        with journal.begin(spec.name, "challenger") as rollout:
            for state in ("validated", "shadowed"):
                rollout = journal.move(rollout, state)
            promote(client, repository, journal, rollout, spec, packages, CHOICE)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
