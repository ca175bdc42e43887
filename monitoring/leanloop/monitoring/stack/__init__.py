"""The programs that serve and watch, under one supervisor: Triton, Prometheus, Alertmanager, leanloop's service."""

from leanloop.monitoring.stack.plan import ProgramName, token_file
from leanloop.monitoring.stack.rules import ALERT_QUESTIONS
from leanloop.monitoring.stack.supervise import ProgramStatus, down, programs, up

__all__ = ["ALERT_QUESTIONS", "ProgramName", "ProgramStatus", "down", "programs", "token_file", "up"]
