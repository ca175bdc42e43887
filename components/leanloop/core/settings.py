"""The schema of ``params.yaml``: one tree, read by the CLI, by DVC and by the pipeline's defaults.

A wrong key or value is refused with the key's path, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from leanloop.core.errors import SettingsError

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
"""What a model may be called: it becomes a folder, a Triton model and a metric label."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
ObjectPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
StudentParameter = bool | int | float | str
TargetName = Literal["onnxruntime", "openvino"]
Objective = Literal["latency_p50", "latency_p99", "size", "cost"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Section):
    """One named input of the model, without its batch axis."""

    name: Name
    shape: tuple[int, ...] = Field(description="without the batch axis")
    dtype: Literal["float32", "int64", "uint8"] = "float32"

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in shape):
            raise ValueError("every axis must be at least 1; leave the batch axis out")
        return shape


class ModelSettings(_Section):
    """What the owner brings. Exactly one kind: factory + weights, an ``.onnx`` file, or a ``.pt2`` file."""

    name: Name
    file: str = Field(description=".safetensors or .pt/.pth (with a factory), .onnx, or .pt2")
    factory: ObjectPath | None = Field(None, description='"module:function" returning a torch.nn.Module')
    code: tuple[str, ...] = Field((), description="files and folders that the factory and the data need")
    student: ObjectPath | None = Field(None, description='"module:function" returning a smaller torch.nn.Module')
    student_parameters: dict[str, tuple[StudentParameter, ...]] = Field(
        default_factory=dict, description="values to try for the student's keyword arguments, the largest model first"
    )
    external_data: tuple[str, ...] = Field((), description="files beside the .onnx that hold its large tensors")
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    outputs: tuple[Name, ...] = Field(("output",), min_length=1)
    task: Literal["classification", "regression"] = "classification"
    classes: tuple[str, ...] = Field((), description="class names, in the order of the logits")
    trust: bool = Field(False, description="allow a .pt2 that holds pickled payloads (it is code)")

    @property
    def kind(self) -> Literal["factory", "onnx", "pt2"]:
        """Which of the three forms of model the file is."""
        suffix = Path(self.file).suffix
        if suffix == ".onnx":
            return "onnx"
        return "pt2" if suffix == ".pt2" else "factory"

    @model_validator(mode="after")
    def _one_kind(self) -> ModelSettings:
        suffix = Path(self.file).suffix
        if suffix not in {".safetensors", ".pt", ".pth", ".onnx", ".pt2"}:
            raise ValueError(f"file: {suffix or 'no suffix'!r} is not .safetensors, .pt, .pth, .onnx or .pt2")
        if self.kind == "factory" and self.factory is None:
            raise ValueError("factory: weights need a factory, as module:function")
        if self.kind != "factory" and self.factory is not None:
            raise ValueError(f"factory: a {suffix} file holds its own architecture; leave the factory out")
        if self.student is not None and self.factory is None:
            raise ValueError("student: needs a factory beside it, whose code it shares")
        if empty := [name for name, values in self.student_parameters.items() if not values]:
            raise ValueError(f"student_parameters: no values for {', '.join(empty)}")
        if self.student_parameters and self.student is None:
            raise ValueError("student_parameters: there is no student")
        names = [spec.name for spec in self.inputs] + list(self.outputs)
        if len(set(names)) != len(names):
            raise ValueError("inputs and outputs: every name must differ")
        return self


class DataSettings(_Section):
    """Where the four splits come from: an owner's function, or a ``.npz`` or ``.parquet`` file."""

    source: str = Field(description='"module:function", or a .npz or .parquet file')
    files: tuple[str, ...] = Field((), description="paths or URLs that the function reads; packed by digest")
    inline_bytes: int = Field(8 << 20, ge=0, description="files up to this total travel inside the bundle")
    max_samples: dict[Literal["train", "calibration", "validation", "test"], int] = Field(
        default_factory=dict, description="read at most so many samples of a split"
    )


class GoalSettings(_Section):
    """What is wanted: one objective at one load, under constraints."""

    minimise: Objective = "latency_p50"
    batch_size: int = Field(1, ge=1, le=4096)
    concurrency: int = Field(1, ge=1, le=256)
    threads: int = Field(1, ge=1, le=256, description="CPU threads per model instance")
    max_accuracy_drop: float = Field(0.01, ge=0, description="relative: 0.01 keeps 99 % of the original's metric")
    max_latency_ms: float | None = Field(None, gt=0)
    max_size_bytes: int | None = Field(None, gt=0)
    max_memory_bytes: int | None = Field(None, gt=0)
    price_per_core_hour: float = Field(0.04, ge=0, description="for minimise: cost")


class OptimizeSettings(_Section):
    """What the search may do, and for how long."""

    techniques: tuple[str, ...] = Field(
        (
            "channel_pruning",
            "distillation",
            "ort_dynamic_int8",
            "ort_static_int8",
            "nncf_int8",
            "openvino_bf16",
            "openvino_fp16",
        ),
        description="names of registered techniques",
    )
    budget_minutes: float = Field(5.0, gt=0)
    max_trials: int = Field(40, ge=1)
    finalists: int = Field(5, ge=1, le=32, description="candidates that go on to be converted and benchmarked")
    workers: int = Field(2, ge=1, le=64)
    storage: str = Field("", description="URL of the study; empty: a journal file in the store")
    trial_timeout_seconds: float = Field(900.0, gt=0)
    trial_memory_bytes: int = Field(6 << 30, gt=0)
    seed: int = Field(0, ge=0)


class ServingSettings(_Section):
    """The Triton that serves, and how it is reached."""

    autostart: bool = Field(True, description="start the local Triton when none answers")
    repository: str = Field("", description="model repository; empty: serving/models in the workspace")
    http_url: str = "127.0.0.1:8000"
    grpc_url: str = "127.0.0.1:8001"
    metrics_url: str = "127.0.0.1:8002"
    triton_home: str = Field("", description="environment that holds Triton; empty: found by `leanloop doctor`")
    instances: tuple[int, ...] = Field((1, 2), min_length=1, description="instance counts to try")
    max_batch_size: int = Field(64, ge=1, le=4096)
    queue_delays_us: tuple[int, ...] = Field((0, 500), min_length=1, description="batching delays to try")
    start_timeout_seconds: float = Field(60.0, gt=0)


class TriggerSettings(_Section):
    """When the loop acts by itself, and how often at most."""

    automatic: bool = Field(True, description="start repairs; false: only record incidents and page")
    cooldown_minutes: float = Field(60.0, ge=0, description="after a run, before the next one for the same model")
    daily_runs: int = Field(6, ge=1, description="runs that the loop starts by itself in 24 hours, per model")
    rejections: int = Field(2, ge=1, description="candidates refused for one cause before a person is asked")
    fresh_labels: int = Field(500, ge=1, description="labels since the drift began that a fine-tuning needs")
    label_horizon_minutes: float = Field(1440.0, gt=0, description="labels that have not come by then will not come")
    budget_minutes: float = Field(4.0, gt=0, description="of the search in a re-optimisation")


class SloSettings(_Section):
    """What served requests are promised, and over which windows the error budgets are watched."""

    latency_p99_ms: float = Field(50.0, gt=0, description="server-side request time, queueing included")
    latency_target: float = Field(0.99, gt=0, lt=1, description="share of the time that p99 must hold")
    availability_target: float = Field(0.999, gt=0, lt=1, description="share of the requests that must be answered")
    window_scale: float = Field(1.0, gt=0, description="of all alerting windows: 1 is hours and days, 0.01 a demo's")


class MonitoringSettings(_Section):
    """What is kept of live traffic, how it is judged, and what the loop may do about it."""

    capture_rate: float = Field(0.0, ge=0, le=1, description="share of the requests that is kept; 0 keeps none")
    capture_quota_bytes: int = Field(1 << 30, gt=0, description="of all that is kept; beyond it the oldest goes")
    keep_days: float = Field(30.0, gt=0, description="labels and judged windows are forgotten after that")
    window: int = Field(500, ge=100, description="captured records per judged window")
    window_minutes: float = Field(60.0, gt=0, description="a window is judged after that, full or not")
    raise_after: int = Field(2, ge=1, description="alarming windows ...")
    of: int = Field(3, ge=1, description="... among so many that make an incident")
    clear_after: int = Field(3, ge=1, description="quiet windows in a row that end it")
    level: float = Field(0.005, gt=0, lt=0.5, description="chance of a false alarm per window")
    accept_after: int = Field(12, ge=3, description="drifting windows that the model copes with become the new normal")
    max_accuracy_drop: float = Field(0.05, gt=0, lt=1, description="below the release's own validation accuracy")
    max_agreement_drop: float = Field(0.03, gt=0, lt=1, description="with the parent, below that on validation")
    parent_samples: int = Field(100, ge=0, description="per window, also asked of the parent; 0 asks none")
    slo: SloSettings = SloSettings()
    trigger: TriggerSettings = TriggerSettings()
    tick_seconds: float = Field(5.0, gt=0, description="between two looks at what has come")
    database: str = Field("", description="URL of SQLAlchemy; empty: SQLite in the workspace")
    service_url: str = Field("127.0.0.1:8003", description="of leanloop's own service")
    prometheus_url: str = Field("127.0.0.1:9090", description="started here when nothing answers")
    alertmanager_url: str = Field("127.0.0.1:9093", description="started here; empty: alerts are read from Prometheus")
    notify_url: str = Field("", description="webhook (Alertmanager's message) that pages go to, besides the log")

    @model_validator(mode="after")
    def _consistent(self) -> MonitoringSettings:
        if self.raise_after > self.of:
            raise ValueError("raise_after: is above of")
        return self


class BenchmarkSettings(_Section):
    """How long to measure."""

    batch_sizes: tuple[int, ...] = Field((1, 8, 32), min_length=1)
    blocks: int = Field(12, ge=4, le=1000, description="interleaved blocks per variant")
    block_seconds: float = Field(0.15, gt=0, le=60)
    warmup_seconds: float = Field(0.5, gt=0, le=60)
    confidence: float = Field(0.95, gt=0.5, lt=1)


class StoreSettings(_Section):
    """Where results are kept between runs."""

    url: str = Field("", description="any fsspec URL; empty: store in the workspace")


class Settings(_Section):
    """All of ``params.yaml``."""

    schema_version: Literal[1] = 1
    model: ModelSettings
    data: DataSettings
    metric: str = Field("accuracy", description="accuracy, f1, rmse, agreement, cosine, or module:function")
    goal: GoalSettings = GoalSettings()
    targets: tuple[TargetName, ...] = Field(("onnxruntime", "openvino"), min_length=1)
    optimize: OptimizeSettings = OptimizeSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    serving: ServingSettings = ServingSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    store: StoreSettings = StoreSettings()
    workspace: str = Field(".leanloop", description="folder of runs, store and served models")

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if metric in {"accuracy", "f1", "rmse", "agreement", "cosine"} or ":" in metric:
            return metric
        raise ValueError("use accuracy, f1, rmse, agreement, cosine, or module:function")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.metric in {"accuracy", "f1"} and self.model.task != "classification":
            raise ValueError(f"metric: {self.metric} needs task: classification")
        if self.metric in {"rmse", "cosine"} and self.model.task != "regression":
            raise ValueError(f"metric: {self.metric} needs task: regression")
        if self.goal.batch_size > self.serving.max_batch_size:
            raise ValueError("goal.batch_size: is above serving.max_batch_size")
        return self

    @property
    def measured_batch_sizes(self) -> tuple[int, ...]:
        """The benchmark's batch sizes and the goal's, in order, each once."""
        return tuple(sorted({*self.benchmark.batch_sizes, self.goal.batch_size}))

    @property
    def served_batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that Triton prepares for, in order; any other goes the usual way."""
        return tuple(sorted({1, self.goal.batch_size}))

    def to_json(self) -> str:
        """One JSON line that `from_json` reads back: how settings travel to a step."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Settings from `to_json`; errors name key, value and what is allowed."""
        return parse_settings(json.loads(text), source="settings")


def load_settings(path: Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Read ``params.yaml``.

    Args:
        path: The YAML file.
        overrides: Dotted keys to replace, for example ``{"goal.batch_size": 32}``.

    Raises:
        SettingsError: The file is missing or not YAML, or a key or value is wrong.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            "The settings file cannot be read.",
            where=str(path),
            value=error.strerror,
            fix="Name it with --params, or write one with `leanloop init`.",
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError("The settings file is not valid YAML.", where=str(path), value=error) from error
    if not isinstance(document, dict):
        raise SettingsError("The settings file holds no mapping.", where=str(path), value=document)
    for key, value in (overrides or {}).items():
        *parents, leaf = key.split(".")
        node = document
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise SettingsError("An override goes through a plain value.", where=key, value=child)
            node = child
        node[leaf] = value
    return parse_settings(document, source=str(path))


def parse_settings(document: Any, *, source: str) -> Settings:
    """Validate a plain document; see `load_settings` for errors."""
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            raise SettingsError(
                f"Unknown settings key {key!r}{more}.",
                where=source,
                value=first["input"],
                fix=_suggest(first["loc"]),
            ) from error
        nested, separator, rest = message.partition(": ")
        if separator and " " not in nested and first["type"] == "value_error":
            key, message = f"{key}.{nested}" if key else nested, rest
        raise SettingsError(
            f"Wrong value for settings key {key!r}{more}.",
            where=source,
            value=None if first["type"] == "value_error" and not first["loc"] else first["input"],
            fix=message,
        ) from error


def _suggest(location: tuple[int | str, ...]) -> str:
    section: Any = Settings
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field is not None else None
    known = sorted(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known keys here: {', '.join(known)}." if known else "Remove it."
