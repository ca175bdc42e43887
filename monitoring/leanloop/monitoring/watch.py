"""One release under watch: its windows are judged as they fill, and what is known of it is kept up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.database import TakenRow, WindowRow
from leanloop.monitoring.feed import Feed, Window
from leanloop.monitoring.judge import (
    Baseline,
    LiveAccuracy,
    ParentAnswers,
    Persistence,
    State,
    WindowVerdict,
    accuracy_state,
    judge,
)
from leanloop.monitoring.judge.estimate import Falling
from leanloop.monitoring.judge.features import predicted
from leanloop.monitoring.labels import Labels
from leanloop.monitoring.recent import Recent
from leanloop.monitoring.served import KeptBaseline

AskParent = Callable[[Mapping[str, np.ndarray]], np.ndarray | None]
"""The parent's first output for some inputs, [asked, ...]; None when there is no parent to ask."""

MOST_PER_LOOK = 4
"""Windows that are judged at one look: more would keep the loop from all else."""

KEPT_WINDOWS = 20
"""Of answers that wait for their labels."""

MOST_ACCEPTED = 4_000
"""Records of a renewed baseline: the parent is asked all of them."""

_BROKEN_SHARE = 0.01
_FEATURES_KEPT = 8


@dataclass(frozen=True)
class Flags:
    """What one judged window says to each question; None where it was too small to say."""

    inputs: bool | None
    estimate: bool | None
    agreement: bool | None
    broken: bool
    parent: bool | None = None

    @classmethod
    def of(cls, verdict: WindowVerdict, broken: int) -> Flags:
        """Of a verdict, and of the records that could not be judged."""
        return cls(
            inputs=verdict.inputs_drift,
            estimate=_falls(verdict.estimate.state),
            agreement=_falls(verdict.agreement.state),
            parent=_falls(verdict.agreement.parent),
            broken=broken > _BROKEN_SHARE * (verdict.samples + broken),
        )


def _falls(state: Falling) -> bool | None:
    return None if state == "unknown" else state == "falling"


class ReleaseWatch:
    """What is known of one release; one that is made again is watched anew, from the time of its feed on.

    Args:
        engine: Of `leanloop.monitoring.database.open_database`.
        settings: Window, limits, persistence.
        feed: Of the release's version.
        kept: The baseline that its windows are compared with; None when there is none: then nothing is known of its
            inputs. Windows that were judged by another one count no more.
        labels: Of all models.
        ask_parent: The parent revision, asked a sample of each window.
    """

    def __init__(
        self,
        engine: Engine,
        settings: MonitoringSettings,
        feed: Feed,
        kept: KeptBaseline | None,
        labels: Labels,
        ask_parent: AskParent,
    ) -> None:
        self._engine, self._settings, self.feed = engine, settings, feed
        self._baseline_key = "" if kept is None else kept.key
        self.baseline = None if kept is None else kept.baseline
        self._ask_parent, self._labels = ask_parent, labels
        self._recent = Recent(labels, feed.spec.name, KEPT_WINDOWS)
        self._states = {
            question: Persistence(settings.raise_after, settings.of, settings.clear_after)
            for question in ("inputs", "estimate", "agreement", "parent")
        }
        self.last: WindowVerdict | None = None
        self.last_window: Window | None = None
        self.broken = self._parent_alarms = False
        self.windows = 0
        self.drifting_since: float | None = None
        self._changed_by: float | None = None
        self._restore()

    def _restore(self) -> None:
        wanted = (
            select(WindowRow)
            .where(WindowRow.model == self.feed.spec.name, WindowRow.version == self.feed.version)
            .where(WindowRow.first_time >= self.feed.since)
            .order_by(WindowRow.id)
        )
        with Session(self._engine) as session:
            for row in session.scalars(wanted):
                if row.verdict["baseline"] != self._baseline_key:
                    continue
                flags = Flags(**row.verdict["flags"])  # type: ignore[arg-type]
                self._remember(flags, row.first_time, row.last_time)
        before = self.feed.tail(KEPT_WINDOWS * self._settings.window)
        if len(before):
            self._recent.add(before, predicted(self._output(before)))

    def look(self, now: float) -> int:
        """Judge the windows that are due at a Unix time; returns how many."""
        judged = 0
        for window in self.feed.windows(now, most=MOST_PER_LOOK):
            self._judge(window, now)
            judged += 1
        self._recent.refresh()
        return judged

    def _judge(self, window: Window, now: float) -> None:
        output = self._output(window)
        verdict, flags = None, Flags(None, None, None, broken=window.broken > 0)
        if len(window):
            classes = predicted(output)
            if self.baseline is not None:
                verdict = judge(self.baseline, window.inputs, output, self._settings, parent=self._parent(window))
                flags = Flags.of(verdict, window.broken)
        first, last = (float(window.times[0]), float(window.times[-1])) if len(window) else (now, now)
        self._keep(window, verdict, flags, first, last)
        # It is written down: what follows must not fail, or the window would be given again.
        if len(window):
            self._recent.add(window, classes)
        self._remember(flags, first, last)
        self.last, self.last_window = verdict, window if len(window) else None

    def _output(self, window: Window) -> np.ndarray:
        return window.outputs[self.feed.spec.outputs[0].name]

    def _parent(self, window: Window) -> ParentAnswers | None:
        count = min(self._settings.parent_samples, len(window))
        # The seed is the window's own time: judged again, it asks the same.
        rng = np.random.default_rng(int(window.times[0]))
        rows = np.sort(rng.choice(len(window), count, replace=False))
        output = self._ask_parent({name: values[rows] for name, values in window.inputs.items()}) if count else None
        return None if output is None else ParentAnswers(rows, output)

    def _keep(self, window: Window, verdict: WindowVerdict | None, flags: Flags, first: float, last: float) -> None:
        model, version = self.feed.spec.name, self.feed.version
        with Session(self._engine) as session, session.begin():
            session.add(
                WindowRow(
                    model=model,
                    version=version,
                    first_time=first,
                    last_time=last,
                    records=len(window),
                    broken=window.broken,
                    verdict={
                        "baseline": self._baseline_key,
                        "flags": vars(flags),
                        **({} if verdict is None else _figures(verdict)),
                    },
                )
            )
            for file, rows in window.taken.items():
                session.merge(TakenRow(model=model, version=version, file=file, rows=rows))

    def _remember(self, flags: Flags, first_time: float, last_time: float) -> None:
        self.windows += 1
        self.broken, self._parent_alarms = flags.broken, bool(flags.parent)
        for question, state in self._states.items():
            state.add(getattr(flags, question))
        if flags.inputs and self.drifting_since is None:
            self.drifting_since, self._changed_by = first_time, last_time
        elif self.inputs == "ok" and not flags.inputs:
            self.drifting_since = self._changed_by = None

    @property
    def inputs(self) -> State:
        """Whether the world has changed."""
        return self._states["inputs"].state

    @property
    def estimate(self) -> Falling:
        """Whether the accuracy that is estimated without labels falls."""
        return _falling(self._states["estimate"].state)

    @property
    def agreement(self) -> Falling:
        """Whether the agreement with the parent falls."""
        return _falling(self._states["agreement"].state)

    @property
    def parent(self) -> Falling:
        """Whether the parent is less sure than it was, and no measure of right.

        One window is enough to doubt it: when compression is blamed, the parent is taken for right.
        """
        return "falling" if self._parent_alarms else _falling(self._states["parent"].state)

    @property
    def live_accuracy(self) -> LiveAccuracy:
        """On the newest labelled records, at most a window of them."""
        return self._recent.accuracy(self._settings.window)

    @property
    def accuracy(self) -> Falling:
        """Whether the accuracy by labels falls.

        While the world drifts, only answers from after the first drifting window can tell that it does not: a part of
        that window may be from before the change, as all older ones are.
        """
        newest = self._falls(self.live_accuracy)
        if self._changed_by is None:
            return newest
        changed = self._falls(self._recent.accuracy(self._settings.window, after=self._changed_by))
        return newest if changed == "unknown" and newest == "falling" else changed

    def _falls(self, live: LiveAccuracy) -> Falling:
        settings = self._settings
        usual, samples = (None, 0) if self.baseline is None else (self.baseline.accuracy, self.baseline.samples)
        return accuracy_state(live, usual, samples, level=settings.level, max_drop=settings.max_accuracy_drop)

    def accepted(self) -> Baseline | None:
        """A baseline of the newest windows, for a release that copes with them; None when they are too few.

        How right it must be stays as it was when it was accepted: a new normal is no excuse to get worse.
        """
        recent = self.feed.tail(min(MOST_ACCEPTED, self._settings.accept_after * self._settings.window))
        if self.baseline is None or len(recent) < 2 * self._settings.window:
            return None
        # The projections take every second record: neighbours in time must not all fall on one side.
        rows = np.random.default_rng(int(recent.times[0])).permutation(len(recent))
        inputs = {name: values[rows] for name, values in recent.inputs.items()}
        output = self._output(recent)[rows]
        parent = None if self.baseline.agreement is None else self._ask_parent(inputs)
        fitted = Baseline.fit(inputs, output, parent, None, task=self.baseline.task)
        return replace(
            fitted,
            accuracy=self.baseline.accuracy,
            calibration=self.baseline.calibration,
            agreement=fitted.agreement if parent is not None else self.baseline.agreement,
        )

    def newest_labels(self) -> np.ndarray:
        """Labels of the last window, [records]; negative where none has come."""
        return self._recent.newest_labels()

    def labelled_since(self, time: float) -> int:
        """Labelled records that were asked since a Unix time, among the newest windows."""
        return self._recent.labelled_since(time)

    def conflicts(self) -> int:
        """Labels of the model that contradicted an earlier one."""
        return self._labels.conflicts(self.feed.spec.name)

    def coverage(self) -> float:
        """Share of the newest records that have a label."""
        return self._recent.coverage()


def _falling(state: State) -> Falling:
    return "falling" if state == "drifting" else state


def taken_rows(engine: Engine, model: str, version: int) -> dict[str, int]:
    """Rows of each captured file that went into judged windows, by file name."""
    wanted = select(TakenRow).where(TakenRow.model == model, TakenRow.version == version)
    with Session(engine) as session:
        return {row.file: row.rows for row in session.scalars(wanted)}


def _figures(verdict: WindowVerdict) -> dict[str, Any]:
    """The figures behind a verdict, as data."""
    return {
        "features": [
            {"name": one.name, "distance": one.distance, "threshold": one.threshold, "p_value": one.p_value}
            for one in verdict.drift.features[:_FEATURES_KEPT]
        ],
        "clipping": {seen.name: seen.values for seen in verdict.clipping},
        "estimate": None if verdict.estimate.accuracy is None else verdict.estimate.accuracy.model_dump(),
        "agreement": verdict.agreement.agreement,
        "expected_agreement": verdict.agreement.expected,
    }
