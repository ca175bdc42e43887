"""The judgement: whether live records still look, and are answered, as they were when the release was accepted."""

from leanloop.monitoring.judge.accuracy import LiveAccuracy, live_accuracy, wilson
from leanloop.monitoring.judge.drift import FeatureDrift, WindowDrift, holm, judge_window
from leanloop.monitoring.judge.persistence import Persistence, State
from leanloop.monitoring.judge.reference import Reference

__all__ = [
    "FeatureDrift",
    "LiveAccuracy",
    "Persistence",
    "Reference",
    "State",
    "WindowDrift",
    "holm",
    "judge_window",
    "live_accuracy",
    "wilson",
]
