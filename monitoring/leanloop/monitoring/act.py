"""What is done about an incident: the table's action, within what policy allows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from leanloop.core.errors import LeanloopError, ServingError
from leanloop.core.launcher import Kind, RunState
from leanloop.core.settings import TriggerSettings
from leanloop.monitoring.incidents import Incident, Incidents, IncidentState
from leanloop.monitoring.runs import RunEntry, Runs
from leanloop.monitoring.served import Served
from leanloop.monitoring.server import Server

MOST_REPAIRS = 5
"""Reloads of one model for one incident; a server that needs more needs a person."""


@dataclass
class Acts:
    """Carries out what the diagnosis asks for.

    Attributes:
        server: That serves.
        incidents: Where it is written down.
        runs: That can be started.
        policy: What the loop may do by itself.
    """

    server: Server
    incidents: Incidents
    runs: Runs
    policy: TriggerSettings

    def __post_init__(self) -> None:
        self._repairs: Counter[str] = Counter()

    def act(
        self, incident: Incident, *, since: float | None, concurrency: int, now: float, released: float = 0.0
    ) -> None:
        """Do what can be done now about an open incident.

        Args:
            incident: As it was just observed.
            since: Unix time from which on live records are fresh; None takes all that are kept.
            concurrency: Requests under way at the same time.
            now: Unix time.
            released: Unix time of the release; what was refused before it counts no more.
        """
        if incident.state in ("acting", "paged"):
            return
        match incident.action:
            case "record":
                self._note(incident, "recorded", "the model copes; nothing is done", now)
            case "wait for labels":
                horizon = self.policy.label_horizon_minutes
                self._note(incident, "open", f"waits for labels, {horizon:g} min at most", now)
            case "page":
                self._note(incident, "paged", "a person must look: no repair of our own fits", now)
            case "page and freeze capture":
                self.server.freeze_capture(incident.model)
                self._note(incident, "paged", "broken requests: nothing more of them is kept", now)
            case "roll back":
                self._roll_back(incident, now)
            case "repair the server":
                self._repair(incident, now)
            case "re-tune" | "re-optimise" | "fine-tune and re-optimise" as kind:
                self._run(incident, kind, since, concurrency, released, now)
            case "nothing":
                raise ValueError(f"an incident always asks for something: {incident.id}")

    def begin_anew(self, served: Served, *, now: float) -> None:
        """Close what was wrong before the release that serves, and drop runs for it that no process is at.

        The incident that led to the release itself ends with its run. Another run that is at work goes on: what it
        finds must be better than what serves by then.

        Args:
            served: What serves; calling it again for the same release changes nothing.
            now: Unix time.
        """
        by = None if served.rollout is None else served.rollout.incident
        for incident in self.incidents.open(served.model):
            if incident.opened < served.since and incident.id != by:
                again = " again" if incident.version == served.version else ""
                note = f"version {served.version} was released{again}"
                run = self.runs.drop(incident.id, note, now=now)
                self._note(incident, "closed", note if run is None else f"{note}; run {run} goes on", now)

    def settle(self, *, now: float) -> None:
        """Write down how the runs ended that incidents wait for: such an incident is closed, or goes on.

        What ended is read from the ledger, so that an end is not missed by a service that dies right after it.
        """
        for incident in self.incidents.open():
            if incident.state == "acting":
                run = self.runs.newest_for(incident.id)
                if run is not None and run.result is not None:
                    self._settle(incident, run, run.result, now)

    def _settle(self, incident: Incident, run: RunEntry, result: RunState, now: float) -> None:
        if run.state == "released":
            self._note(incident, "closed", f"version {result.version} serves since run {run.request.id}", now)
        else:
            self._note(incident, "open", f"run {run.request.id} {run.state}: {result.detail}"[:2000], now)

    def _roll_back(self, incident: Incident, now: float) -> None:
        try:
            done = self.server.roll_back(incident.model, incident.cause, incident.id)
        except ServingError as error:
            self._note(incident, "paged", f"could not roll back: {error.what} {error.value}", now)
            return
        self._note(incident, "closed", f"rolled back to version {done.previous}", now)

    def _repair(self, incident: Incident, now: float) -> None:
        self._repairs[incident.id] += 1
        count = self._repairs[incident.id]
        if count > MOST_REPAIRS:
            self._note(incident, "paged", f"{MOST_REPAIRS} reloads did not mend it", now)
            return
        try:
            self.server.reload(incident.model)
        except ServingError as error:
            # The supervisor may be starting the server again just now: the next look tries anew.
            self._note(incident, "open", f"reload {count} failed: {error.what}", now)
            return
        self._note(incident, "open", f"reloaded {count} times", now)

    def _run(
        self, incident: Incident, kind: Kind, since: float | None, concurrency: int, released: float, now: float
    ) -> None:
        under_way = self.runs.under_way()
        if under_way is not None and under_way.request.incident == incident.id:
            # A service that died wrote the run down, but not here.
            self._note(incident, "acting", f"run {under_way.request.id}", now)
            return
        hindrance = self.runs.hindrance(self.policy, incident.model, incident.cause, released=released, now=now)
        if hindrance is not None:
            state: IncidentState = "paged" if hindrance.final else "open"
            self._note(incident, state, f"no run: {hindrance.reason}", now)
            return
        self._accept(incident)
        try:
            asked = self.runs.request(
                incident.model,
                kind,
                incident.cause,
                cause=incident.cause,
                incident=incident.id,
                since=since,
                concurrency=concurrency,
                now=now,
            )
        except LeanloopError as error:
            self._note(incident, "open", f"no run: {error.what} {error.value}", now)
            return
        self._note(incident, "acting", f"run {asked.id}", now)

    def _accept(self, incident: Incident) -> None:
        """End the champion's bake: it is not to blame, and nothing else can be rolled out until then."""
        rollout = self.server.journal.serving(incident.model, incident.version)
        if rollout is not None and rollout.state == "promoted":
            self.server.accept(incident.model, f"not to blame: {incident.cause}")

    def _note(self, incident: Incident, state: IncidentState, note: str, now: float) -> None:
        if (incident.state, incident.note) != (state, note):
            self.incidents.change(incident.id, state, note, now=now)
