"""How the monitor asks for a run without knowing how runs are made: `leanloop.pipelines` implements this."""

from __future__ import annotations

from typing import Literal, Protocol

from leanloop.core.contracts import Record
from leanloop.core.settings import Name

Kind = Literal["optimise", "re-tune", "re-optimise", "fine-tune and re-optimise"]


class RunRequest(Record):
    """What shall be run, and why.

    Attributes:
        id: The run's name, chosen before it starts: asking twice never starts two.
        model: Name of the model.
        kind: What is done.
        reason: For people.
        incident: That it shall end; None when a person asked.
        since: Unix time from which on captured requests are taken as fresh; None takes all.
        concurrency: Requests under way at the same time, for a re-tuning.
    """

    id: str
    model: Name
    kind: Kind
    reason: str
    incident: str | None = None
    since: float | None = None
    concurrency: int = 1


class RunState(Record):
    """How a run stands.

    Attributes:
        state: ``absent`` when it was never started; ``refused`` when it ended well and changed nothing, since nothing
            better was found; ``died`` when its process is gone without a result.
        detail: Why it was refused or failed.
        version: That serves since; None when nothing was released.
        artifact_digest: Of that version; empty when nothing was released.
    """

    state: Literal["absent", "running", "released", "refused", "failed", "died"]
    detail: str = ""
    version: int | None = None
    artifact_digest: str = ""


class Launcher(Protocol):
    """Starts runs as processes that outlive the one that asked."""

    def start(self, request: RunRequest) -> None:
        """Start a run, or start it again when its process died; nothing happens when it runs or has ended.

        Raises:
            LeanloopError: It cannot be started.
        """

    def look(self, run: str) -> RunState:
        """How the run of this id stands."""
