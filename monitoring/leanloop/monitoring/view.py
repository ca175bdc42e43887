"""What the loop knows at one moment, as data: metrics, status and console are drawn from this alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanloop.core.contracts import Interval, Record

Answer = Literal["ok", "bad", "unknown"]
"""To one of the questions that are asked of live traffic."""


class FeatureView(Record):
    """One watched feature in the last judged window."""

    name: str
    distance: float
    threshold: float
    drifts: bool


class VersionView(Record):
    """One served version, as it answered a real inference."""

    version: int
    answers: bool
    milliseconds: float
    problem: str


class IncidentView(Record):
    """An open incident, in short."""

    id: str
    question: str
    cause: str
    action: str
    state: str
    opened: float
    note: str
    alerts: tuple[str, ...] = Field(description="names of those that were told about it")


class FailureView(Record):
    """A part of the loop's look that fails.

    Attributes:
        what: A model, or what is done for all of them.
        model: That it is about; empty when it is about none.
        looks: That have failed in a row.
        since: Unix time of the first.
        problem: Of the last.
        paged: Whether these are so many that a person must look.
    """

    what: str
    model: str
    looks: int
    since: float
    problem: str
    paged: bool

    def __str__(self) -> str:
        return f"{self.what}, {self.looks} {'time' if self.looks == 1 else 'times in a row'}: {self.problem}"


class ModelView(Record):
    """One model's release, as it does now.

    Attributes:
        model: Its name.
        version: That answers.
        artifact_id: That this version holds.
        questions: Answers, by question.
        evidence: What the diagnosis rests on, by attribute of `leanloop.monitoring.diagnosis.Evidence`.
        diagnosis: What is thought to be wrong.
        action: What is done about it.
        expected_accuracy: Of the release on validation; None without labels there.
        accuracy: By labels, of the newest labelled records; None when there are too few.
        estimate: Accuracy without labels, of the last judged window; None when it cannot be estimated.
        agreement: With the parent, of the newest judged windows.
        expected_agreement: At the same difficulty, as on validation.
        labelled: Records with a label among the newest ones.
        coverage: Share of the newest records that have a label.
        conflicts: Labels that contradicted an earlier one.
        clipping: Share of input values outside the reference's range, by input.
        features: Of the last judged window, the farthest off first.
        window_records: In the last judged window.
        windows: Judged since the release serves.
        skipped: Windows that were passed over since more came than could be judged.
        waiting: Records that wait for their window to fill.
        request_rate: Samples per second, over the last ticks.
        capacity: Samples per second that were measured when the release was tuned.
        versions: Every version that should be served.
        incidents: Open ones.
    """

    model: str
    version: int
    artifact_id: str
    questions: dict[str, Answer]
    evidence: dict[str, str]
    diagnosis: str
    action: str
    expected_accuracy: float | None
    accuracy: Interval | None
    estimate: Interval | None
    agreement: float | None
    expected_agreement: float | None
    labelled: int
    coverage: float
    conflicts: int
    clipping: dict[str, float]
    features: tuple[FeatureView, ...]
    window_records: int
    windows: int
    skipped: int
    waiting: int
    request_rate: float
    capacity: float
    versions: tuple[VersionView, ...]
    incidents: tuple[IncidentView, ...]


class ComputeView(Record):
    """Compute times of one release's captured requests since the service started.

    Attributes:
        model: Its name.
        version: Of the release.
        buckets: Upper bounds in seconds, with the requests that took no longer.
        requests: All of them, those above the last bound included.
        total_seconds: That these took.
    """

    model: str
    version: int
    buckets: tuple[tuple[float, int], ...]
    requests: int
    total_seconds: float


class LoopView(Record):
    """The whole loop.

    Attributes:
        tick: Unix time of the last look; 0 before the first.
        blind: Why latency cannot be watched; empty when it can.
        captured: Records that came from segments since the service started.
        dropped: Records that were sampled and lost, over all writers.
        damaged: Segments that could not be read whole.
        lag_seconds: Age of the newest record; None before the first.
        runs: How many there were, by model, then by state.
        run: Id of the run that is under way; empty when there is none.
        failures: What could not be looked at.
        compute: Compute times by release.
        models: By name.
    """

    tick: float = 0.0
    blind: str = ""
    captured: int = 0
    dropped: int = 0
    damaged: int = 0
    lag_seconds: float | None = None
    runs: dict[str, dict[str, int]] = Field(default_factory=dict)
    run: str = ""
    failures: tuple[FailureView, ...] = ()
    compute: tuple[ComputeView, ...] = ()
    models: tuple[ModelView, ...] = ()
