"""A recording, replayed through the live loop; only what a wire would carry is played.

Collector, feed, judgement, evidence, table, incidents, ledger, repository, journal and roll-back are the product's own,
on a simulated clock. Played are Triton behind its client (which runs the model files of the repository in this process,
or fails as injected), Triton's counters, Prometheus' alerts, and the launcher. Reports are left out: they never decide.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from loop import served
from loop.cast import Cast
from loop.machine import Machine
from loop.record import LOOK_SECONDS, PACES, START, WINDOW, Look, record
from loop.scenarios import Scenario

from leanloop.core.contracts import Release, ServedMeasurement
from leanloop.core.errors import ServingError
from leanloop.core.launcher import RunRequest, RunState
from leanloop.core.releases import baseline_key, release_key
from leanloop.core.settings import MonitoringSettings, Settings, TriggerSettings, load_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.monitoring.database import open_database
from leanloop.monitoring.diagnosis import Evidence, diagnose
from leanloop.monitoring.explain import Explainer
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.loop import LATENCY_ALERT, Loop
from leanloop.monitoring.prometheus import ActiveAlert
from leanloop.serving import CaptureChoice, Journal, ModelRepository, Package, promote, stack

CAPACITY = 1_000.0
"""Samples per second that every release is said to have been measured at."""

PASSING = ("nothing", "record", "wait for labels")
"""Actions that leave all as it is: the loop goes on looking."""

_FAILING_SHARE = 0.3
_LONG = timedelta(days=10)


@dataclass
class Ledger:
    """A launcher that starts nothing: runs go on for ever, or have been refused."""

    ends: dict[str, RunState] = field(default_factory=dict)
    started: list[RunRequest] = field(default_factory=list)

    def start(self, request: RunRequest) -> None:
        self.started.append(request)

    def look(self, run: str) -> RunState:
        was_started = any(request.id == run for request in self.started)
        return self.ends.get(run, RunState(state="running" if was_started else "absent"))


@dataclass(frozen=True)
class Outcome:
    """What the loop made of one replay.

    Attributes:
        scenario: Its name.
        seed: Of the replay.
        mixed: Whether two faults were injected.
        shift: That was drawn, with its severity.
        pace: Seconds per window.
        expected: Cause of the right row.
        found: Cause of the row that was acted on first; without any action, of the last row.
        action: Of that row.
        done: Whether this action was carried out.
        windows: Judged until then.
        evidence: Of that row.
        rows: All rows in order, each once until another follows, with the look at which it began.
    """

    scenario: str
    seed: int
    mixed: bool
    shift: tuple[str, int]
    pace: float
    expected: str
    found: str
    action: str
    done: bool
    windows: int
    evidence: dict[str, str]
    rows: list[tuple[int, str]]

    @property
    def right(self) -> bool:
        """The right row, and its action was carried out."""
        return self.found == self.expected and self.done


class Stage:
    """One scenario's workspace, with the loop over it."""

    def __init__(self, scenario: Scenario, cast: Cast, settings: Settings) -> None:
        self.scenario, self.cast, self.model = scenario, cast, cast.spec.name
        self.workspace = Workspace(settings)
        self.workspace.capture.mkdir(parents=True)
        self.repository = ModelRepository(self.workspace.serving / "models")
        self.journal = Journal(self.workspace.serving)
        self.machine = Machine(self.repository, self.model)
        self.launcher = Ledger()
        self.burns = False
        self.version = self._deploy()
        self._keep_release()
        self.loop = Loop(settings, open_database(self.workspace.database_url), self.launcher)
        if scenario.refused:
            self._refuse_a_revision()

    def _deploy(self) -> int:
        release = self.cast.releases[self.scenario.release]
        usual = self.cast.releases["int8"]
        if self.scenario.baking:
            earlier = replace(usual.champion.package, artifact_id="earlier")
            self._promote([usual.original.package, earlier], None)
        bake = _LONG if self.scenario.baking else None
        return self._promote([release.original.package, release.champion.package], bake)

    def _promote(self, packages: list[Package], bake: timedelta | None) -> int:
        capture = CaptureChoice(folder=str(self.workspace.capture), rate=1.0, quota_bytes=1 << 30)
        with self.journal.begin(self.model, packages[-1].artifact_id, incident="earlier") as rollout:
            rollout = self.journal.move(rollout, "validated")
            return promote(
                self.machine, self.repository, self.journal, rollout, self.cast.spec, packages, served.CHOICE, capture,
                bake=bake,
            ).version  # fmt: skip

    def _keep_release(self) -> None:
        parts, package = (
            self.cast.releases[self.scenario.release],
            self.cast.releases[self.scenario.release].champion.package,
        )
        digest, artifact = self.cast.bundle.manifest.digest, package.artifact_id
        release = Release(
            model=self.model,
            version=self.version,
            artifact_id=artifact,
            artifact_digest="",
            bundle_digest=digest,
            recipe=None,
            runtime=package.files.runtime,
            precision=package.files.precision,
            versions={str(self.version): artifact},
            choice=served.CHOICE,
            served=(
                ServedMeasurement(
                    version=self.version, batch_size=1, concurrency=4, p50_ms=1.0, p99_ms=2.0, throughput=CAPACITY,
                    requests=1_000,
                ),
            ),
            golden_queries=len(package.golden),
            http_url="",
            grpc_url="",
            hardware_id="",
            code_version="",
            created=datetime.fromtimestamp(START, UTC).isoformat(),
            note="",
        )  # fmt: skip
        store = self.workspace.store
        store.put_json(release_key(release), release.model_dump(mode="json"))
        store.put_folder(baseline_key(digest, artifact), parts.baseline)

    def _refuse_a_revision(self) -> None:
        """Hours ago a fine-tuning for this release came to nothing, and the incident was over."""
        at = START - 2 * 3600
        seen = Evidence(inputs="drifting", accuracy="falling", labels="enough")
        row = diagnose(seen)
        incident = self.loop.incidents.observe(self.model, self.version, row, seen, {}, now=at)
        assert incident is not None
        kind = "fine-tune and re-optimise"
        asked = self.loop.runs.request(self.model, kind, row.cause, cause=row.cause, incident=incident.id, now=at)
        self.loop.runs.advance(now=at)
        self.launcher.ends[asked.id] = RunState(state="refused", detail="no better")
        self.loop.runs.advance(now=at + 60)
        self.loop.incidents.observe(self.model, self.version, diagnose(Evidence()), Evidence(), {}, now=at + 120)

    def alerts(self) -> tuple[ActiveAlert, ...]:
        """What Prometheus says."""
        if self.scenario.blind:
            raise ServingError("Prometheus does not answer.", where="in this process")
        labels = {"alertname": LATENCY_ALERT, "model": self.model}
        return (ActiveAlert(labels, datetime.fromtimestamp(START, UTC)),) if self.burns else ()

    def set(self, look: Look) -> None:
        """Let the world be as it is at a look."""
        scenario, machine = self.scenario, self.machine
        for segment in look.segments:
            segment.rename(self.workspace.capture / segment.name)
        if look.labels:
            self.loop.labels.add(self.model, look.labels, received=look.at)
        load = scenario.load if look.faulty else Scenario.load
        asked = round(load * CAPACITY * LOOK_SECONDS)
        if look.faulty:
            if scenario.server == "down":
                machine.is_down = True
            elif scenario.server == "dead":
                machine.dead.add(self.version)
            elif scenario.server == "worn":
                machine.replaced[self.version] = self.cast.worn.session
            elif scenario.server == "failing":
                machine.failures += round(_FAILING_SHARE * asked)
            self.burns = scenario.burns is not None and look.records >= scenario.burns * WINDOW
        machine.successes += asked

    def done(self, cause: str, action: str) -> bool:
        """Whether the action that a cause asks for was carried out."""
        incidents = self.loop.incidents.latest(5, self.model)
        state = next((one.state for one in incidents if one.cause == cause), "none")
        config = self.repository.served(self.model)
        match action:
            case "nothing":
                return not self.loop.incidents.open(self.model)
            case "record":
                return state == "recorded"
            case "wait for labels":
                return state == "open"
            case "page":
                return state == "paged"
            case "page and freeze capture":
                return state == "paged" and config.capture is None
            case "roll back":
                return state == "closed" and max(config.versions) < self.version
            case "repair the server":
                return self.machine.reloads > 0
            case _:
                return state == "acting" and self.launcher.started[-1].kind == action


def replay(scenario: Scenario, cast: Cast, seed: int, kind: int) -> Outcome:
    """Record a scenario under a seed, and replay it until the loop acts or the recording ends.

    Args:
        scenario: What is injected.
        cast: Who answers.
        seed: Draws everything, together with the kind: no two replays share their draws.
        kind: Number of the scenario.
    """
    rng = np.random.default_rng([seed, kind])
    with tempfile.TemporaryDirectory(prefix="leanloop-replay-") as name:
        pace = float(rng.choice(PACES))
        stage = Stage(scenario, cast, _settings(scenario, pace, Path(name) / "workspace"))
        recording = record(scenario, cast, stage.version, pace, rng, Path(name) / "recording")
        rows: list[tuple[int, str]] = []
        with _live(stage):
            for number, look in enumerate(recording.looks):
                stage.set(look)
                view = stage.loop.tick(look.at)
                if view.failures:
                    raise RuntimeError(f"a look failed in {scenario.name!r}: {view.failures}")
                (model,) = view.models
                if not rows or rows[-1][1] != model.diagnosis:
                    rows.append((number, model.diagnosis))
                if model.action not in PASSING:
                    break
            done = stage.done(model.diagnosis, model.action)
        return Outcome(
            scenario=scenario.name,
            seed=seed,
            mixed=scenario.mixed,
            shift=recording.shift,
            pace=pace,
            expected=scenario.cause,
            found=model.diagnosis,
            action=model.action,
            done=done,
            windows=model.windows,
            evidence=model.evidence,
            rows=rows,
        )


def as_data(outcome: Outcome) -> dict[str, Any]:
    """For a file."""
    return asdict(outcome) | {"right": outcome.right}


def _settings(scenario: Scenario, pace: float, workspace: Path) -> Settings:
    """The defaults; the label horizon is in windows, and nobody is paged."""
    trigger = TriggerSettings(label_horizon_minutes=scenario.horizon * pace / 60)
    settings = load_settings(served.ROOT / "params.yaml").model_copy(
        update={"workspace": str(workspace), "monitoring": MonitoringSettings(alertmanager_url="", trigger=trigger)}
    )
    return with_absolute_paths(settings, served.ROOT)


@contextmanager
def _live(stage: Stage) -> Iterator[None]:
    """Everything that would go over a wire is asked of the stage."""
    with (
        patch.object(stack, "connect", lambda *_: stage.machine),
        patch("leanloop.monitoring.server.read_metrics", lambda *_: stage.machine.metrics()),
        patch("leanloop.monitoring.loop.firing_alerts", lambda *_: stage.alerts()),
        patch.object(Explainer, "explain"),
        patch.object(Baseline, "load", _loaded_once),
    ):
        try:
            yield
        finally:
            stage.loop.explainer.close()
            stage.machine.end()


_load = Baseline.load
_known: dict[str, Baseline] = {}


def _loaded_once(folder: Path) -> Baseline:
    """What `Baseline.load` gives; an equal one keeps what it has calibrated, which takes seconds."""
    digest = (folder / "baseline.json").read_text(encoding="utf-8")
    if digest not in _known:
        _known[digest] = _load(folder)
    return _known[digest]
