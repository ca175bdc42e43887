"""What the running server does, read for people and for decisions."""

from leanloop.monitoring.triton_metrics import VersionMetrics, parse_metrics, read_metrics

__all__ = ["VersionMetrics", "parse_metrics", "read_metrics"]
