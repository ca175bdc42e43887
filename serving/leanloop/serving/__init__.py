"""Serving by Triton: the model repository, the server's process, clients, staging and promotion."""

from leanloop.serving.client import Answer, LoadedModel, TritonClient
from leanloop.serving.golden import Golden, check_golden
from leanloop.serving.health import VersionHealth, check_health
from leanloop.serving.home import TritonHome
from leanloop.serving.load import compare_served, measure_served
from leanloop.serving.model_config import CaptureChoice, ModelConfig, ModelSpec, TensorSpec
from leanloop.serving.process import Ports, ProcessId
from leanloop.serving.promote import Promotion, promote
from leanloop.serving.repository import ModelRepository, Package
from leanloop.serving.stack import StackState, StackStatus, connect, down, repository, status, up
from leanloop.serving.stage import Stage, TuningTrial, stage, tune
from leanloop.serving.triton import TritonServer

__all__ = [
    "Answer",
    "CaptureChoice",
    "Golden",
    "LoadedModel",
    "ModelConfig",
    "ModelRepository",
    "ModelSpec",
    "Package",
    "Ports",
    "ProcessId",
    "Promotion",
    "Stage",
    "StackState",
    "StackStatus",
    "TensorSpec",
    "TritonClient",
    "TritonHome",
    "TritonServer",
    "TuningTrial",
    "VersionHealth",
    "check_golden",
    "check_health",
    "compare_served",
    "connect",
    "down",
    "measure_served",
    "promote",
    "repository",
    "stage",
    "status",
    "tune",
    "up",
]
