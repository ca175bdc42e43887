"""The judgement: whether live records still look, and are answered, as they were when the release was accepted."""

from leanloop.monitoring.judge.accuracy import LiveAccuracy, accuracy_state, live_accuracy, wilson
from leanloop.monitoring.judge.agreement import Agreement, AgreementDrift
from leanloop.monitoring.judge.baseline import Baseline
from leanloop.monitoring.judge.clipping import Clipping, Range
from leanloop.monitoring.judge.drift import TOGETHER, FeatureDrift, WindowDrift, holm, judge_window
from leanloop.monitoring.judge.estimate import Calibration, Estimate
from leanloop.monitoring.judge.persistence import Persistence, State
from leanloop.monitoring.judge.reference import Reference
from leanloop.monitoring.judge.verdict import ParentAnswers, WindowVerdict, judge

__all__ = [
    "TOGETHER",
    "Agreement",
    "AgreementDrift",
    "Baseline",
    "Calibration",
    "Clipping",
    "Estimate",
    "FeatureDrift",
    "LiveAccuracy",
    "ParentAnswers",
    "Persistence",
    "Range",
    "Reference",
    "State",
    "WindowDrift",
    "WindowVerdict",
    "accuracy_state",
    "holm",
    "judge",
    "judge_window",
    "live_accuracy",
    "wilson",
]
