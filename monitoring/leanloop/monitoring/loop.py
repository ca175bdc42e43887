"""The loop: it looks, judges, understands, acts; again and again.

One look (`Loop.tick`) collects what was captured, judges the windows that are full, asks the server and Prometheus,
puts what was found into the words of the diagnosis table, and does what the table says. All that must not be forgotten
is in the database: a service that is killed goes on where it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Engine

from leanloop.core.errors import LeanloopError, ServingError, StoreError
from leanloop.core.launcher import Launcher
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.act import Acts
from leanloop.monitoring.alerts import Alerts
from leanloop.monitoring.collect import Collector
from leanloop.monitoring.diagnosis import COPES, Row, diagnose
from leanloop.monitoring.evidence import evidence_of
from leanloop.monitoring.explain import Explainer
from leanloop.monitoring.failures import Failures
from leanloop.monitoring.feed import Feed
from leanloop.monitoring.incidents import Incident, Incidents
from leanloop.monitoring.judge.features import Arrays
from leanloop.monitoring.labels import Labels
from leanloop.monitoring.pager import Pager
from leanloop.monitoring.portrait import Portrait, portray, portray_incident
from leanloop.monitoring.prometheus import ActiveAlert, firing_alerts
from leanloop.monitoring.retention import clean_up
from leanloop.monitoring.runs import Runs
from leanloop.monitoring.served import Served, read_baseline, read_served, renew_baseline
from leanloop.monitoring.server import Probe, Server
from leanloop.monitoring.stack.rules import ALERT_QUESTIONS
from leanloop.monitoring.stack.timing import LOOKS_PER_WINDOW, SHORTEST_WINDOW_SECONDS, scrape_seconds
from leanloop.monitoring.view import ComputeView, LoopView, ModelView
from leanloop.monitoring.watch import ReleaseWatch, taken_rows
from leanloop.monitoring.watched import Watched

log = logging.getLogger(__name__)

LATENCY_ALERT = "LatencyBudgetBurn"

_CLEAN_UP_SECONDS = 600.0


class Loop:
    """Watches everything that a workspace's Triton serves.

    Args:
        settings: With absolute paths.
        engine: Of `leanloop.monitoring.database.open_database`.
        launcher: Starts runs.
    """

    def __init__(self, settings: Settings, engine: Engine, launcher: Launcher) -> None:
        self._settings, self._engine = settings, engine
        self._workspace = Workspace(settings)
        self._collector = Collector(self._workspace.capture, self._workspace.rows)
        self.labels = Labels(engine)
        self.alerts = Alerts(engine, ALERT_QUESTIONS)
        self.incidents = Incidents(engine)
        self.runs = Runs(engine, launcher)
        self.server = Server(settings)
        self.acts = Acts(self.server, self.incidents, self.runs, settings.monitoring.trigger)
        self.explainer = Explainer(self._workspace.monitoring / "reports", settings.monitoring.level)
        self._watched: dict[str, Watched] = {}
        slo = settings.monitoring.slo
        # A run's own load is forgotten when the shortest alerting window has passed, and one evaluation.
        self._burn_seconds = max(SHORTEST_WINDOW_SECONDS * slo.window_scale, LOOKS_PER_WINDOW * scrape_seconds(slo))
        self._burn_seconds += 2 * scrape_seconds(slo)
        self._views: dict[str, ModelView] = {}
        self._failures = Failures()
        self._pager = Pager(settings.monitoring)
        self._next_clean_up = 0.0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self.view = LoopView()

    def report_now(self, model: str) -> str:
        """Have a model's newest window reported on; returns the report's name.

        Raises:
            ServingError: There is no judged window yet.
        """
        watched = self._watched.get(model)
        name = f"{model}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        if watched is None or not self.explain(name, watched.watch):
            raise ServingError(
                "There is no judged window to report on.",
                where=model,
                fix="Wait until a window is full (`leanloop status`), with a release that has a baseline.",
            )
        return name

    def models(self) -> tuple[str, ...]:
        """What is served, by name."""
        return self.server.repository.models()

    def run(self) -> None:
        """Look until `stop` is called; a look that fails is told in the log, and the next one tries again."""
        mended = False
        while not self._stop.is_set():
            try:
                mended = mended or self._mend()
                self.tick(time.time())
            except LeanloopError as error:
                log.error("a look failed: %s", error)
            except Exception:
                # Whatever it is, the loop must look again; without a look the metric that Prometheus watches gets old.
                log.exception("a look failed")
            self._wake.wait(self._settings.monitoring.tick_seconds)
            self._wake.clear()
        self.explainer.close()

    def _mend(self) -> bool:
        """Finish or undo rollouts that a crash interrupted; False while a damaged journal keeps us from it.

        Raises:
            ServingError: The server is not up yet.
        """
        try:
            for done in self.server.recover():
                log.warning("after a crash: %s %s", done.rollout, done.did)
        except StoreError as error:
            # Looks at its model fail and say so; all others go on.
            log.error("interrupted rollouts: %s", error)
            return False
        return True

    def wake(self) -> None:
        """Look now: something has happened."""
        self._wake.set()

    def stop(self) -> None:
        """End `run` after the look that is under way."""
        self._stop.set()
        self._wake.set()

    def tick(self, now: float) -> LoopView:
        """One look at everything, at a Unix time; what fails is told, and keeps nothing else from being looked at."""
        told, models = self._failures.told, self.models()
        self._forget_all_but(models)
        with told("captured requests", now):
            self._collector.collect()
        if now >= self._next_clean_up:
            with told("clean-up of old rows", now):
                self._clean_up(now)
        alerts, blind = self._alerts()
        if alerts is None:
            self._pager.blind(blind, now)
        else:
            self._pager.sees()
            with told("alerts of Prometheus", now):
                self.alerts.poll(alerts, models, now=now)
        with told("the server", now):
            probe, burning = self.server.probe(), self._burning(alerts, now)
            for model in models:
                with told(model, now, model=model):
                    self._look_at(model, probe, burning, now)
            if probe.live:
                with told("overdue rollouts", now):
                    for ended in self.server.end_overdue():
                        log.warning("%s: %s", ended, ended.reason)
        with told("started runs", now):
            for run in self.runs.advance(now=now):
                log.info("run %s ended: %s", run.request.id, run.state)
            self.acts.settle(now=now)
        incidents = self.incidents.open()
        self.view = self._see(incidents, blind, now)
        self._page(incidents, now)
        return self.view

    def _see(self, incidents: Sequence[Incident], blind: str, now: float) -> LoopView:
        """All that is known after a look."""
        done = self._collector.done
        under_way = self.runs.under_way()
        states: dict[str, dict[str, int]] = {}
        for (model, state), count in self.runs.counts().items():
            states.setdefault(model, {})[state] = count
        alerts = self.alerts.of([one.id for one in incidents])
        shown = [(one.model, portray_incident(one, alerts[one.id])) for one in incidents]
        return LoopView(
            tick=now,
            blind=blind,
            captured=done.rows,
            dropped=done.dropped,
            damaged=done.damaged,
            lag_seconds=done.lag_seconds(now),
            runs=states,
            run="" if under_way is None else under_way.request.id,
            failures=self._failures.now(),
            compute=tuple(
                ComputeView(
                    model=model,
                    version=version,
                    buckets=times.buckets(),
                    requests=times.requests,
                    total_seconds=times.total_seconds,
                )
                for (model, version), times in sorted(done.compute.items())
            ),
            models=tuple(
                view.model_copy(update={"incidents": tuple(incident for model, incident in shown if model == name)})
                for name, view in sorted(self._views.items())
            ),
        )

    def _page(self, incidents: Sequence[Incident], now: float) -> None:
        """Ask for a person where one is needed."""
        for incident in incidents:
            if incident.state == "paged":
                reason = f"{incident.cause}: {incident.note}"
                self._pager.person_needed(incident.id, incident.model, reason, now)
        for failure in self.view.failures:
            if failure.paged:
                key = f"look at {failure.what} since {failure.since:.0f}"
                self._pager.person_needed(key, failure.model, f"look failed: {failure}", now)

    def _clean_up(self, now: float) -> None:
        settings = self._settings.monitoring
        removed = clean_up(
            self._workspace.rows,
            self._engine,
            quota_bytes=settings.capture_quota_bytes,
            keep_days=settings.keep_days,
            now=now,
        )
        if removed:
            log.info("%d files of captured rows were removed: more than the quota", removed)
        self._next_clean_up = now + _CLEAN_UP_SECONDS

    def _alerts(self) -> tuple[tuple[ActiveAlert, ...] | None, str]:
        try:
            return firing_alerts(self._settings.monitoring.prometheus_url), ""
        except ServingError as error:
            return None, f"{error.what} {error.value}"

    def _burning(self, alerts: Collection[ActiveAlert] | None, now: float) -> Collection[str] | None:
        """Models whose latency budget burns; None when that cannot be known."""
        if alerts is None or self._beside_a_run(now):
            # Our own run takes from the server's cores: that is no reason for another.
            return None
        return {alert.model for alert in alerts if alert.name == LATENCY_ALERT}

    def _beside_a_run(self, now: float) -> bool:
        """Whether a run is under way, or was so lately that alerts may still be about its load."""
        last = next(iter(self.runs.entries(most=1)), None)
        return last is not None and (last.ended is None or now < last.ended + self._burn_seconds)

    def _burnt_before(self, served: Served, now: float) -> bool:
        """Whether alerts may still be about what a version did before it was released again."""
        return served.again and now < served.since + self._burn_seconds

    def _forget_all_but(self, models: Collection[str]) -> None:
        for gone in self._watched.keys() | self._views.keys():
            if gone not in models:
                self._watched.pop(gone, None)
                self._views.pop(gone, None)
        self._failures.forget_models(models)

    def _look_at(self, model: str, probe: Probe, burning: Collection[str] | None, now: float) -> None:
        if self.server.journal.interrupted(model):
            return  # what serves is just being switched
        watched = self._follow(model, now)
        if watched is not None:
            self._views[model] = portray(self._look(watched, probe, burning, now))

    def _follow(self, model: str, now: float) -> Watched | None:
        """What watches the release that serves now: one that is new gets a watch of its own."""
        known = self._watched.get(model)
        settled = known is not None and known.served.release is not None
        if (
            known is not None
            and settled
            and self.server.repository.config(model) == known.served.config
            and self.server.rollout(known.served) == known.served.rollout
        ):
            return known  # the store need not be asked at every look
        served = read_served(self.server.repository, self.server.journal, self._workspace.store, model)
        if served is None:
            return None
        if known is not None and known.served.key == served.key:
            known.served = served
            return known
        self.acts.begin_anew(served, now=now)
        self._watched[model] = Watched(served, self._new_watch(served))
        log.info("%s: version %d is watched", model, served.version)
        return self._watched[model]

    def _new_watch(self, served: Served) -> ReleaseWatch:
        settings = self._settings.monitoring
        feed = Feed(
            self._workspace.rows,
            served.config.spec,
            served.version,
            settings.window,
            settings.window_minutes * 60,
            taken_rows(self._engine, served.model, served.version),
            served.since,
        )

        def ask_parent(inputs: Arrays) -> np.ndarray | None:
            return None if served.parent is None else self.server.ask(served, served.parent, inputs)

        baseline = read_baseline(self._workspace.store, served)
        return ReleaseWatch(self._engine, settings, feed, baseline, self.labels, ask_parent)

    def _look(self, watched: Watched, probe: Probe, burning: Collection[str] | None, now: float) -> Portrait:
        served, watch = watched.served, watched.watch
        watch.look(now)
        watched.ask(self.server, probe, now)
        rollout = self.server.rollout(served)
        findings = watched.findings(
            baking=rollout is not None and rollout.state == "promoted",
            latency_burns=None if burning is None or self._burnt_before(served, now) else served.model in burning,
            revision_refused=self._revision_refused(served),
        )
        evidence = evidence_of(findings, self._settings.monitoring.trigger, now)
        row = diagnose(evidence)
        portrait = Portrait(served, watch, watched.traffic, probe, findings, evidence, row)
        incident = self.incidents.observe(served.model, served.version, row, evidence, portrait.figures(), now=now)
        if incident is not None:
            self.alerts.attach(incident)
            if incident.opened == now:
                self.explain(incident.id, watch)
            self._act(incident, watched, now)
        self._accept_new_normal(watched, row, now)
        unhurt = row.action in ("nothing", "record")
        if unhurt and findings.baking and watch.windows >= self._settings.monitoring.of:
            self.server.accept(served.model, f"{watch.windows} windows without a complaint")
        return portrait

    def _accept_new_normal(self, watched: Watched, row: Row, now: float) -> None:
        """Renew the baseline of a release that has coped with a changed world for long enough."""
        watch = watched.watch
        if row.cause != COPES:
            watched.copes_from = None
            return
        if watched.copes_from is None:
            watched.copes_from = watch.windows
        if watch.windows - watched.copes_from < self._settings.monitoring.accept_after:
            return
        baseline = watch.accepted()
        if baseline is not None:
            renew_baseline(self._workspace.store, watched.served, baseline, now)
            log.info("%s: what version %d is asked now is the new normal", watched.served.model, watched.served.version)
            watched.watch = self._new_watch(watched.served)
        watched.copes_from = None

    def explain(self, name: str, watch: ReleaseWatch) -> bool:
        """Have the newest window of a release reported on; False when there is none that could be compared."""
        if watch.baseline is None or watch.last_window is None:
            return False
        output = watch.feed.spec.outputs[0].name
        self.explainer.explain(name, watch.baseline, watch.last_window, output, watch.newest_labels())
        return True

    def _revision_refused(self, served: Served) -> bool:
        """Whether the newest fine-tuning for this release was refused."""
        last = next(
            (run for run in self.runs.entries(served.model) if run.request.kind == "fine-tune and re-optimise"), None
        )
        if last is None or last.state != "refused":
            return False
        of_this = (one for one in self.incidents.latest(50, served.model) if one.opened >= served.since)
        return {one.id: one.version for one in of_this}.get(last.request.incident or "") == served.version

    def _act(self, incident: Incident, watched: Watched, now: float) -> None:
        since, concurrency = watched.watch.drifting_since, watched.traffic.concurrency
        released = watched.served.since
        try:
            self.acts.act(incident, since=since, released=released, concurrency=concurrency, now=now)
        except LeanloopError as error:
            log.error("incident %s: %s", incident.id, error)
            self.incidents.change(incident.id, "open", f"{incident.action} failed: {error.what}", now=now)
