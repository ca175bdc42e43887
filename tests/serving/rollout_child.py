"""A rollout in a process of its own that kills itself at a given moment: python -m tests.serving.rollout_child."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from leanloop.serving import Journal, ModelConfig, ModelRepository, Rollout, TritonClient, promote, roll_back
from tests.serving.conftest import CHOICE, Models, linear_spec


def kill_when(owner: type, method: str, moment: Any, *, before: bool) -> None:
    original = getattr(owner, method)

    def watched(self: Any, *arguments: Any) -> Any:
        if before and moment(self):
            os.kill(os.getpid(), signal.SIGKILL)
        done = original(self, *arguments)
        if not before and moment(self):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, method, watched)


def main(job: dict[str, Any]) -> None:
    moment = job["moment"]
    if moment == "configured":
        kill_when(ModelConfig, "save", lambda _: True, before=False)
    elif moment == "loaded":
        kill_when(TritonClient, "load", lambda _: True, before=False)
    else:
        kill_when(Rollout, "save", lambda rollout: rollout.state == moment, before=False)
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
                rollout = journal.move(rollout, state)  # type: ignore[arg-type]
            promote(client, repository, journal, rollout, spec, packages, CHOICE)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
