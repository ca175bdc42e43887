"""All that one look found of one model, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from leanloop.monitoring.diagnosis import Evidence, Row
from leanloop.monitoring.evidence import Findings, answers_of
from leanloop.monitoring.incidents import Incident
from leanloop.monitoring.served import Served
from leanloop.monitoring.server import Probe
from leanloop.monitoring.traffic import Traffic
from leanloop.monitoring.view import FeatureView, IncidentView, ModelView, VersionView
from leanloop.monitoring.watch import ReleaseWatch


@dataclass(frozen=True)
class Portrait:
    """One model at one moment."""

    served: Served
    watch: ReleaseWatch
    traffic: Traffic
    probe: Probe
    findings: Findings
    evidence: Evidence
    row: Row

    def figures(self) -> dict[str, Any]:
        """What stands behind the evidence, as data, for the incident's row."""
        live, last = self.watch.live_accuracy, self.watch.last
        return {
            "version": self.served.version,
            "artifact": self.served.artifact_id,
            "windows": self.watch.windows,
            "live_accuracy": None if live.accuracy is None else live.accuracy.model_dump(),
            "labelled": live.labelled,
            "fresh_labels": self.findings.fresh_labels,
            "expected_accuracy": None if self.watch.baseline is None else self.watch.baseline.accuracy,
            "request_rate": round(self.traffic.rate, 2),
            "features": [] if last is None else [one.name for one in last.drift.features if one.drifts],
        }


def portray(portrait: Portrait) -> ModelView:
    """The view of one model, without its incidents: they change when nobody looks at the model, too."""
    served, watch, last = portrait.served, portrait.watch, portrait.watch.last
    live = watch.live_accuracy
    return ModelView(
        model=served.model,
        version=served.version,
        artifact_id=served.artifact_id,
        questions=answers_of(portrait.evidence),
        evidence=asdict(portrait.evidence),
        diagnosis=portrait.row.cause,
        action=portrait.row.action,
        expected_accuracy=None if watch.baseline is None else watch.baseline.accuracy,
        accuracy=live.accuracy,
        estimate=None if last is None else last.estimate.accuracy,
        agreement=None if last is None else last.agreement.agreement,
        expected_agreement=None if last is None else last.agreement.expected,
        labelled=live.labelled,
        coverage=watch.coverage(),
        conflicts=watch.conflicts(),
        clipping={} if last is None else {seen.name: seen.values for seen in last.clipping},
        features=()
        if last is None
        else tuple(
            FeatureView(name=one.name, distance=one.distance, threshold=one.threshold, drifts=one.drifts)
            for one in last.drift.features
        ),
        window_records=0 if last is None else last.samples,
        windows=watch.windows,
        skipped=watch.feed.skipped,
        waiting=watch.feed.waiting,
        request_rate=portrait.traffic.rate,
        capacity=served.capacity,
        versions=tuple(
            VersionView(version=one.version, answers=one.answers, milliseconds=one.milliseconds, problem=one.problem)
            for one in portrait.probe.versions
            if one.model == served.model
        ),
        incidents=(),
    )


def portray_incident(incident: Incident, alerts: tuple[str, ...]) -> IncidentView:
    """The view of one incident, with the names of the alerts that belong to it."""
    return IncidentView(
        id=incident.id,
        question=incident.question,
        cause=incident.cause,
        action=incident.action,
        state=incident.state,
        opened=incident.opened,
        note=incident.note,
        alerts=alerts,
    )
