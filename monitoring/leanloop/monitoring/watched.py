"""One model under watch: what is remembered of it between two looks."""

from __future__ import annotations

from dataclasses import dataclass, field

from leanloop.monitoring.evidence import Findings
from leanloop.monitoring.served import Served
from leanloop.monitoring.server import Probe, Server
from leanloop.monitoring.traffic import Traffic
from leanloop.monitoring.watch import ReleaseWatch

_SILENT_PROBES = 2
"""Real inferences in a row that fail before requests count as failing: one may meet a reload."""

_GOLDEN_EVERY = 12
"""Looks between two at the golden answers, where no window was judged meanwhile."""


@dataclass
class Watched:
    """One model under watch.

    Attributes:
        served: What serves under its name.
        watch: Over the release that does.
        traffic: Of its champion, by Triton's counters.
        copes_from: Windows that had been judged when the release was first seen to cope with a changed world; None
            while nothing has changed, or it does not cope.
    """

    served: Served
    watch: ReleaseWatch
    traffic: Traffic = field(default_factory=Traffic)
    copes_from: int | None = None
    _silent: int = 0
    _looks: int = 0
    _right: bool | None = None
    _windows: int = 0

    def ask(self, server: Server, probe: Probe, now: float) -> None:
        """Take in how the champion did at a Unix time, and from time to time have it asked its golden queries."""
        served = self.served
        self.traffic.add(probe.metrics, served.model, served.version, now)
        champion = [one for one in probe.versions if (one.model, one.version) == (served.model, served.version)]
        answered = bool(champion) and all(one.answers for one in champion)
        if answered:
            self._silent = 0
        elif not probe.starting:
            self._silent += 1
        # What a window says of the world and the model is worth nothing when the model is not what it was.
        judged = self.watch.windows != self._windows
        if answered and (judged or self._looks % _GOLDEN_EVERY == 0):
            self._right, self._windows = server.answers_rightly(served), self.watch.windows
        self._looks += 1

    def findings(self, *, baking: bool, latency_burns: bool | None, revision_refused: bool) -> Findings:
        """All that is known of the release; see `Findings` for what must be told."""
        return findings_of(
            self.watch,
            answers=self._silent < _SILENT_PROBES,
            failing=self.traffic.failing,
            right=self._right,
            baking=baking,
            latency_burns=latency_burns,
            request_rate=self.traffic.rate,
            capacity=self.served.capacity,
            revision_refused=revision_refused,
        )


def findings_of(
    watch: ReleaseWatch,
    *,
    answers: bool,
    failing: bool,
    right: bool | None,
    baking: bool,
    latency_burns: bool | None,
    request_rate: float,
    capacity: float,
    revision_refused: bool,
) -> Findings:
    """What a watch has found, beside what the server tells; the arguments are those of `Findings`."""
    since = watch.drifting_since
    return Findings(
        answers=answers,
        failing=failing,
        right=right,
        baking=baking,
        latency_burns=latency_burns,
        request_rate=request_rate,
        capacity=capacity,
        inputs=watch.inputs,
        broken=watch.broken,
        accuracy=watch.accuracy,
        fresh_labels=watch.labelled_since(0.0 if since is None else since),
        any_labels=watch.coverage() > 0,
        drifting_since=since,
        estimate=watch.estimate,
        agreement=watch.agreement,
        parent=watch.parent,
        revision_refused=revision_refused,
    )
