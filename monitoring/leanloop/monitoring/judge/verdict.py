"""All questions about one window, answered in one call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.judge.accuracy import LiveAccuracy, accuracy_state, live_accuracy
from leanloop.monitoring.judge.agreement import AgreementDrift
from leanloop.monitoring.judge.baseline import Baseline
from leanloop.monitoring.judge.clipping import Clipping
from leanloop.monitoring.judge.drift import WindowDrift, judge_window
from leanloop.monitoring.judge.estimate import Estimate, Falling
from leanloop.monitoring.judge.features import Arrays, finite, predicted

_CLIPPING_SHARE = 0.1
"""Of the level: clipping is asked beside drift, and must not double its false alarms."""


@dataclass(frozen=True)
class ParentAnswers:
    """What the parent says to some of a window's records.

    Attributes:
        rows: Which, as indices into the window, [asked].
        output: Its first output, [asked, ...].
    """

    rows: np.ndarray
    output: np.ndarray


@dataclass(frozen=True)
class WindowVerdict:
    """What is known of one window; each question for itself, nothing decided yet.

    Attributes:
        samples: Records in the window.
        broken: Records with values that are not finite; they are left out of everything else.
        drift: Did the world change?
        clipping: Per input: does it leave the range that the reference saw?
        agreement: Did compression hurt?
        accuracy: Is it still right, by labels?
        accuracy_state: Whether that accuracy falls.
        estimate: Is it still right, without labels?
    """

    samples: int
    broken: int
    drift: WindowDrift
    clipping: tuple[Clipping, ...]
    agreement: AgreementDrift
    accuracy: LiveAccuracy
    accuracy_state: Falling
    estimate: Estimate

    @property
    def inputs_drift(self) -> bool | None:
        """Whether the world changed, by drift or by clipping; None when the window is too small to say."""
        if self.drift.drifts is None:
            return None
        return self.drift.drifts or any(found.state == "drifting" for found in self.clipping)


def judge(
    baseline: Baseline,
    inputs: Arrays,
    output: np.ndarray,
    settings: MonitoringSettings,
    *,
    labels: np.ndarray | None = None,
    parent: ParentAnswers | None = None,
) -> WindowVerdict:
    """Compare a window with the baseline of the release that answered.

    Args:
        baseline: Of that release.
        inputs: By name, [records, ...].
        output: The first output, [records, ...].
        settings: Its level and its limits.
        labels: Class numbers, [records], negative where none has come; None: none at all.
        parent: Its answers to a sample of the records.
    """
    whole = finite(output)
    for values in inputs.values():
        whole &= finite(values)
    kept, answers = {name: values[whole] for name, values in inputs.items()}, output[whole]
    known = np.full(len(output), -1) if labels is None else labels
    level, max_drop = settings.level, settings.max_accuracy_drop
    accuracy = LiveAccuracy(int((known[whole] >= 0).sum()), len(answers), None)
    if baseline.task == "classification" and len(answers):
        accuracy = live_accuracy(predicted(answers), known[whole])
    estimate = Estimate(len(answers), None, None, "unknown")
    if baseline.calibration is not None:
        estimate = baseline.calibration.estimate(answers, level=level, max_drop=max_drop)
    agreement = AgreementDrift(0, None, None, None, "unknown", "unknown")
    if baseline.agreement is not None and parent is not None:
        pairs = whole[parent.rows] & finite(parent.output)
        agreement = baseline.agreement.judge(
            output[parent.rows[pairs]], parent.output[pairs], level=level, max_drop=settings.max_agreement_drop
        )
    return WindowVerdict(
        samples=len(output),
        broken=int((~whole).sum()),
        drift=judge_window(baseline.reference, kept, answers, level=level),
        clipping=tuple(
            seen.judge(name, kept[name], level=_CLIPPING_SHARE * level / len(baseline.ranges))
            for name, seen in baseline.ranges.items()
        ),
        agreement=agreement,
        accuracy=accuracy,
        accuracy_state=accuracy_state(accuracy, baseline.accuracy, baseline.samples, level=level, max_drop=max_drop),
        estimate=estimate,
    )
