"""The whole story on one model: quiet traffic, a changed world, an incident, a repair, a recovery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from leanloop.core.errors import ServingError
from leanloop.core.settings import Settings
from leanloop.monitoring.service_client import ServiceClient
from leanloop.monitoring.view import ModelView
from leanloop.pipelines.demo.shifts import Shift
from leanloop.pipelines.demo.traffic import Samples, Sent, Traffic

Tell = Callable[[float, str], None]
"""Called with the seconds since the story began and what happened."""

_CHUNK_SECONDS = 5.0
_POLL_SECONDS = 1.0


@dataclass
class Chapter:
    """A part of the story, and what became of the requests in it."""

    name: str
    sent: Sent = field(default_factory=Sent)


@dataclass
class Story:
    """What happened.

    Attributes:
        chapters: Before, during and after, in order.
        version_before: That served at the beginning.
        version_after: That served at the end.
        incident: Id of the incident that was repaired.
        run: Id of the run that repaired it.
        seconds: From the shift to the promotion.
    """

    chapters: tuple[Chapter, ...]
    version_before: int
    version_after: int
    incident: str
    run: str
    seconds: float

    @property
    def lost(self) -> float:
        """Accuracy that the shift cost."""
        return self._accuracy(0) - self._accuracy(1)

    @property
    def won_back(self) -> float:
        """Share of it that the repair won back."""
        return (self._accuracy(2) - self._accuracy(1)) / self.lost if self.lost else 0.0

    def _accuracy(self, chapter: int) -> float:
        return self.chapters[chapter].sent.accuracy


class _Flow:
    """Traffic in the background, under a shift that can be changed, counted for the chapter that is open."""

    def __init__(self, traffic: Traffic, rate: float) -> None:
        self._traffic, self._count = traffic, max(1, round(rate * _CHUNK_SECONDS))
        self.shift: tuple[Shift, int] = ("none", 1)
        self.chapter = Chapter("before the shift")
        self.failure: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                chapter, (shift, severity) = self.chapter, self.shift
                chapter.sent.add(self._traffic.send(shift, severity, count=self._count))
        except Exception as error:  # noqa: BLE001 - told in the thread that waits for it
            self.failure = error

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


def tell_story(
    settings: Settings,
    samples: Samples,
    tell: Tell,
    *,
    shift: Shift,
    severity: int,
    rate: float,
    label_delay: float,
    quiet_windows: int = 3,
    calm_seconds: float = 300.0,
    most_seconds: float = 1200.0,
    seed: int = 0,
) -> Story:
    """Live through it on a running stack.

    Args:
        settings: Of the model; the stack runs with them.
        samples: Of the model's test split.
        tell: Told what happens, when it does.
        shift: What changes.
        severity: How much, 1 to 5.
        rate: Requests per second.
        label_delay: Seconds until an answer's label is told.
        quiet_windows: Judged before the shift, and after the repair.
        calm_seconds: What an earlier story left under way must have ended so long after the beginning, under clean
            traffic.
        most_seconds: The story must have ended so long after that.
        seed: Of order and noise.

    Raises:
        ServingError: The loop did not become calm, there was an incident without a shift, or no recovery in time; the
            message tells how far it came.
    """
    client = ServiceClient(settings)
    started = time.monotonic()
    deadline = started + calm_seconds + most_seconds
    flow = _Flow(Traffic(settings, samples, rate=rate, label_delay=label_delay, seed=seed), rate)

    def now() -> float:
        return time.monotonic() - started

    def wait(what: str, until: Callable[[ModelView], bool]) -> ModelView:
        while True:
            flow.check()
            model = next((one for one in client.status().models if one.model == samples.model), None)
            if model is not None and until(model):
                return model
            if time.monotonic() > deadline:
                raise ServingError(
                    "The story did not end in time.",
                    where=what,
                    value=model and f"{model.diagnosis}: {model.action}; {[one.note for one in model.incidents]}",
                    fix="See `leanloop status` and the log of the service in the workspace's monitoring/logs.",
                )
            time.sleep(_POLL_SECONDS)

    with flow.running():
        first = await_calm(
            lambda: wait("waiting for the service", lambda _: True),
            lambda: client.runs(samples.model),
            lambda text: tell(now(), text),
            calm_seconds,
        )
        deadline = time.monotonic() + most_seconds
        tell(now(), f"version {first.version} of {samples.model} serves; quiet traffic, {rate:g} requests per second")
        quiet = wait("quiet traffic", lambda model: model.windows >= first.windows + quiet_windows or _acts(model))
        if _acts(quiet):
            raise ServingError(
                "There was an incident without a shift.",
                where=f"version {quiet.version} of {quiet.model}",
                value=quiet.diagnosis,
                fix="It may have been made for other traffic, by an earlier demo: `leanloop run` releases it anew.",
            )
        before = flow.chapter
        tell(now(), f"{quiet_windows} windows judged, nothing is wrong; accuracy {before.sent.accuracy:.1%}")

        flow.shift, flow.chapter = (shift, severity), Chapter("during the shift")
        during, shifted = flow.chapter, now()
        tell(shifted, f"the world changes: {shift}, severity {severity}")
        seen = wait("detection", lambda model: bool(model.incidents))
        tell(now(), f"incident {seen.incidents[0].id}: {seen.diagnosis}")
        acting = wait("diagnosis", lambda model: any(one.state in ("acting", "paged") for one in model.incidents))
        incident = next(one for one in acting.incidents if one.state in ("acting", "paged"))
        tell(now(), f"incident {incident.id}: {incident.cause}; what is done: {incident.action} ({incident.note})")
        if incident.state == "paged":
            raise ServingError("The loop asked for a person.", where=incident.id, value=incident.note)
        run = incident.note.removeprefix("run ")
        done = wait("repair", lambda model: model.version != first.version or not _runs(client, run))
        ended = next(entry for entry in client.runs(samples.model) if entry["id"] == run)
        if done.version == first.version:
            raise ServingError("The repair changed nothing.", where=run, value=(ended["result"] or {}).get("detail"))
        promoted = now() - shifted
        tell(now(), f"version {done.version} was promoted {promoted:.0f} s after the shift, by run {run}")
        flow.chapter = after = Chapter("after the repair")
        end = wait("recovery", lambda model: model.version != done.version or model.windows >= quiet_windows)
        if end.version != done.version:
            raise ServingError("The new version was rolled back.", where=run, value=_newest_note(client, samples.model))
    chapters = (before, during, after)
    tell(now(), "accuracy: " + ", ".join(f"{one.sent.accuracy:.1%} {one.name}" for one in chapters))
    return Story(chapters, first.version, done.version, incident.id, run, promoted)


def await_calm(
    look: Callable[[], ModelView],
    runs: Callable[[], Sequence[dict[str, Any]]],
    tell: Callable[[str], None],
    seconds: float,
) -> ModelView:
    """Wait until no incident of a model is open and no run for it is under way, and say what is waited for.

    Args:
        look: Gives what the loop knows of the model.
        runs: Gives the model's runs, as the service tells them.
        tell: Told what is waited for, once each.
        seconds: At most.

    Returns:
        The model in its calm.

    Raises:
        ServingError: It did not become calm; names what is under way, and what ends it.
    """
    deadline, told = time.monotonic() + seconds, ""
    while True:
        model = look()
        under_way = {one.id: f"incident {one.id} is open ({one.cause}: {one.note})" for one in model.incidents}
        under_way |= {one["id"]: f"run {one['id']} has not ended" for one in runs() if one["ended"] is None}
        if not under_way:
            return model
        identity, what = next(iter(under_way.items()))
        if identity != told:
            tell(f"waiting for calm under clean traffic, {seconds:g} s at most: {what}")
            told = identity
        if time.monotonic() > deadline:
            raise ServingError(
                "The loop is still busy with what was before, so no story can begin.",
                where=model.model,
                value="; ".join(under_way.values()),
                fix="`leanloop status` shows more. `leanloop down` ends its run; `leanloop run` after that releases "
                "the model anew, which closes the incident and drops the run.",
            )
        time.sleep(_POLL_SECONDS)


def _newest_note(client: ServiceClient, model: str) -> str:
    newest = client.incidents(model)[0]
    return f"{newest['cause']}: {newest['note']}"


def _acts(model: ModelView) -> bool:
    return any(one.state in ("acting", "paged") for one in model.incidents)


def _runs(client: ServiceClient, run: str) -> bool:
    entries: list[dict[str, Any]] = client.runs()
    return any(entry["id"] == run and entry["ended"] is None for entry in entries)
