"""Serving by Triton: the model repository, the server's process, clients, staging and promotion."""

from leanloop.serving.client import Answer, AsyncTritonClient, LoadedModel, TritonClient
from leanloop.serving.golden import Golden, check_golden, check_roughly
from leanloop.serving.health import VersionHealth, check_health
from leanloop.serving.home import TritonHome
from leanloop.serving.journal import Journal, Rollout, State, Transition
from leanloop.serving.load import compare_served, measure_served
from leanloop.serving.model_config import CaptureChoice, ModelConfig, ModelSpec, TensorSpec
from leanloop.serving.process import Ports, ProcessId
from leanloop.serving.promote import FLOOR, Promotion, promote
from leanloop.serving.repository import ModelRepository, Package
from leanloop.serving.retuning import Retuned, Retuning, retune, switch
from leanloop.serving.rollout import Mended, enforce_deadlines, finish_bake, promote_version, recover, roll_back
from leanloop.serving.shadow import Ratio, ShadowLimits, ShadowResult, shadow
from leanloop.serving.stack import StackState, StackStatus, connect, down, repository, status, up
from leanloop.serving.stage import Stage, TuningTrial, stage, tune
from leanloop.serving.triton import TritonServer

__all__ = [
    "FLOOR",
    "Answer",
    "AsyncTritonClient",
    "CaptureChoice",
    "Golden",
    "Journal",
    "LoadedModel",
    "Mended",
    "ModelConfig",
    "ModelRepository",
    "ModelSpec",
    "Package",
    "Ports",
    "ProcessId",
    "Promotion",
    "Ratio",
    "Retuned",
    "Retuning",
    "Rollout",
    "ShadowLimits",
    "ShadowResult",
    "StackState",
    "StackStatus",
    "Stage",
    "State",
    "TensorSpec",
    "Transition",
    "TritonClient",
    "TritonHome",
    "TritonServer",
    "TuningTrial",
    "VersionHealth",
    "check_golden",
    "check_health",
    "check_roughly",
    "compare_served",
    "connect",
    "down",
    "enforce_deadlines",
    "finish_bake",
    "measure_served",
    "promote",
    "promote_version",
    "recover",
    "repository",
    "retune",
    "roll_back",
    "shadow",
    "stage",
    "status",
    "switch",
    "tune",
    "up",
]
