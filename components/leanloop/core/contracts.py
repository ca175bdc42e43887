"""What the steps hand to each other: the files' schemas.

Each contract is one JSON file inside a step's output folder, beside the files that it names. Paths in a
contract are relative to that folder, so an artifact can be moved or copied to another machine.

    bundle/      bundle.json      + weights, code/, samples.npz, data/
    analysis/    analysis.json
    candidates/  candidates.json  + <candidate id>/ (candidate.json, model files, checkpoint)
    artifacts/   artifacts.json   + <variant id>/ (model files)
    benchmark/   benchmark.json   + predictions/<variant id>.npz
    verdict/     verdict.json     + report.html
    release/     release.json     + report.html

A re-optimisation also has those of `leanloop.core.loop_contracts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leanloop.core.errors import StoreError
from leanloop.core.files import read_json, write_json
from leanloop.core.settings import InputSpec, Name

Runtime = Literal["pytorch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
Aim = Literal["accuracy", "agreement", "latency"]
"""What must get better in a re-optimisation: answers by labels, answers by the parent's, or the time they take."""


class Record(BaseModel):
    """Base of all contracts: strict, frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class FileContract(Record):
    """A record that is the JSON file of a step's output folder."""

    filename: ClassVar[str]
    schema_version: Literal[1] = 1

    def save(self, folder: Path) -> None:
        """Write the file into ``folder``, atomically."""
        write_json(folder / self.filename, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the file from ``folder``.

        Raises:
            StoreError: It is missing, not JSON, of another schema version, or not what the contract says.
        """
        path = folder / cls.filename
        document = read_json(path)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(
                f"{cls.filename} is not what this version of leanloop writes.",
                where=f"{path}: {'.'.join(map(str, first['loc']))}",
                value=first["input"],
                fix=f"{first['msg']}. Run the step again with this version.",
            ) from error


# --- bundle ---------------------------------------------------------------------------------------


class FileReference(Record):
    """A data file by path or URL, with what it must contain."""

    url: str
    name: str = Field(description="file name under which the owner's function finds it")
    sha256: str
    size_bytes: int
    inline: bool = Field(description="packed in the bundle under data/<name>")


class SplitSummary(Record):
    """How many samples a split has, and whether they carry labels."""

    samples: int
    labelled: bool


class BundleManifest(FileContract):
    """``bundle.json``: the owner's model, code, samples and data references, with digests."""

    filename: ClassVar[str] = "bundle.json"
    name: Name
    kind: Literal["factory", "onnx", "pt2"]
    weights: str = Field(description="model file, relative")
    factory: str | None
    data_source: str = Field(description='"module:function", or a file name under data/')
    metric: str
    task: Literal["classification", "regression"]
    classes: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    trust: bool
    files: tuple[FileReference, ...]
    max_samples: dict[str, int]
    splits: dict[str, SplitSummary] = Field(description="by split name; a split that is not there is absent")
    parent: str | None = Field(None, description="digest of the bundle that this one was revised from")
    fresh: tuple[str, ...] = Field((), description="files of live samples that are mixed into the data, newest last")
    weights_bytes: int
    digest: str = Field(description="over weights, code, samples, data digests and these fields")


# --- analyze --------------------------------------------------------------------------------------


class LayerCost(Record):
    """One layer's share of the whole model, at the goal's batch size."""

    name: str
    kind: str
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    time_ms: float
    output_shape: tuple[int, ...]


class LayerSensitivity(Record):
    """What happens to the metric when only this layer is treated."""

    name: str
    treatment: Literal["prune_50", "int8"]
    metric: float
    drop: float = Field(description="original metric minus this one, in the metric's units; positive is worse")


class OperatorCoverage(Record):
    """What a target can do with this model."""

    target: str
    supported: bool
    operators: int
    quantisable: int
    unsupported: tuple[str, ...]
    note: str


class Opportunity(Record):
    """One way to gain, with what it is expected to buy here, or why it cannot help."""

    technique: str
    helps: bool
    expected_speedup: float
    expected_size_ratio: float
    risk: Literal["low", "medium", "high"]
    reason: str


class Analysis(FileContract):
    """``analysis.json``."""

    filename: ClassVar[str] = "analysis.json"
    bundle_digest: str
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int = Field(description="peak of live activations, one sample")
    batch_size: int
    latency_ms: float = Field(description="eager or ONNX fp32 of the original, p50 at this batch size")
    metric_name: str
    metric: float
    layers: tuple[LayerCost, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    coverage: tuple[OperatorCoverage, ...]
    opportunities: tuple[Opportunity, ...] = Field(description="best first")
    hardware_id: str


# --- optimize -------------------------------------------------------------------------------------


class RecipeRecord(Record):
    """A recipe as data: techniques in order, each ``{"technique": name, "version": n, ...its fields}``."""

    target: Literal["onnxruntime", "openvino"]
    techniques: tuple[dict[str, Any], ...]

    def describe(self) -> str:
        """One line for tables, such as ``channel_pruning + distillation + ort_static_int8 @ onnxruntime``."""
        names = " + ".join(str(config["technique"]) for config in self.techniques) or "as it is"
        return f"{names} @ {self.target}"


class ModelFiles(Record):
    """Files that a runtime loads, and how it must load them."""

    runtime: Runtime
    precision: Precision
    main: str = Field(description="the file to open, relative")
    files: tuple[str, ...] = Field(description="all files that the runtime loads, relative")
    size_bytes: int
    hints: dict[str, str] = Field(default_factory=dict, description="runtime properties to set on load")


class Candidate(FileContract):
    """``candidate.json``: one finished trial."""

    filename: ClassVar[str] = "candidate.json"
    id: str = Field(description="hash of recipe, bundle, data, tool versions and ISA")
    recipe: RecipeRecord
    bundle_digest: str
    model: ModelFiles
    metric: float = Field(description="validation")
    latency_ms: float = Field(description="p50 at the goal's batch size, from the search")
    size_bytes: int
    seconds: float = Field(description="time that the trial cost, cached parts included when first paid")
    training_seconds: float
    trial: int
    code_version: str
    hardware_id: str


class TrialRow(Record):
    """One line of the search log: tried, cost, outcome."""

    trial: int
    recipe: RecipeRecord
    candidate_id: str
    state: Literal["complete", "pruned", "failed"]
    rung: Literal["latency", "short", "full"]
    latency_ms: float | None
    metric: float | None
    size_bytes: int | None
    seconds: float
    reason: str


class Challenge(Record):
    """Who is challenged in a re-optimisation, and on what."""

    champion: str = Field(description="variant id of the artifact that serves; never the winner")
    aim: Aim


class Candidates(FileContract):
    """``candidates.json``: what one search worker finished, and its log."""

    filename: ClassVar[str] = "candidates.json"
    bundle_digest: str
    worker: int
    candidates: tuple[str, ...] = Field(description="ids; each has a folder of that name")
    trials: tuple[TrialRow, ...]
    left_out: dict[str, str] = Field(description="technique -> why it was not tried")
    challenge: Challenge | None = Field(None, description="in a re-optimisation; ``champion/`` then lies beside")


# --- convert --------------------------------------------------------------------------------------


class Parity(Record):
    """How far an artifact's answers are from the original's, on real samples."""

    samples: int
    batch_sizes: tuple[int, ...]
    max_abs_error: float
    cosine: float
    top1_agreement: float | None
    passed: bool
    limits: dict[str, float]
    note: str = ""


class Artifact(Record):
    """One variant that can be served: the original as a baseline, or a converted candidate."""

    id: str = Field(description='candidate id, or "original-<runtime>-<precision>"')
    baseline: bool
    recipe: RecipeRecord | None
    model: ModelFiles
    parity: Parity
    metric: float | None = Field(None, description="validation, from the search")


class Artifacts(FileContract):
    """``artifacts.json``: every variant that goes to the benchmark, baselines first."""

    filename: ClassVar[str] = "artifacts.json"
    bundle_digest: str
    artifacts: tuple[Artifact, ...]
    rejected: dict[str, str] = Field(description="variant id -> why it was not taken")
    left_out: dict[str, str] = Field(description="technique -> why it was not tried")
    trials: tuple[TrialRow, ...] = Field(description="the search log of all workers")
    challenge: Challenge | None = Field(None, description="in a re-optimisation")


# --- benchmark ------------------------------------------------------------------------------------


class Interval(Record):
    """A point estimate with a bootstrap confidence interval."""

    value: float
    low: float
    high: float


class LatencyMeasurement(Record):
    """One variant at one batch size: in-process compute time, one call at a time."""

    batch_size: int
    p50_ms: Interval
    p99_ms: Interval
    throughput: Interval = Field(description="samples per second, one after another")
    runs: int
    block_medians_ms: tuple[float, ...] = Field(description="one per block; blocks of all variants alternate")


class VariantBenchmark(Record):
    """All that was measured of one variant."""

    id: str
    label: str
    baseline: bool
    runtime: Runtime
    precision: Precision
    threads: int
    latency: tuple[LatencyMeasurement, ...]
    peak_memory_bytes: int = Field(description="resident memory that loading and running it added in a child process")
    size_bytes: int
    metric: float = Field(description="validation")
    metric_interval: Interval
    per_class: tuple[float, ...] = Field(description="accuracy per class on validation; empty when not applicable")

    def at(self, batch_size: int) -> LatencyMeasurement:
        """The measurement at one batch size; KeyError when it was not taken."""
        for measurement in self.latency:
            if measurement.batch_size == batch_size:
                return measurement
        raise KeyError(batch_size)


class Benchmark(FileContract):
    """``benchmark.json``; ``predictions/<id>.npz`` holds each variant's outputs on validation."""

    filename: ClassVar[str] = "benchmark.json"
    bundle_digest: str
    metric_name: str
    higher_is_better: bool
    batch_sizes: tuple[int, ...]
    threads: int
    variants: tuple[VariantBenchmark, ...]
    original_size_bytes: int = Field(description="the owner's weights file")
    hardware: dict[str, Any]
    hardware_id: str
    notes: tuple[str, ...]

    def variant(self, variant_id: str) -> VariantBenchmark:
        """The measurements of one variant; KeyError when it was not measured."""
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        raise KeyError(variant_id)

    @property
    def original(self) -> VariantBenchmark:
        """The original in its own runtime: PyTorch, or ONNX Runtime when the owner brought an ONNX file."""
        baselines = {variant.runtime: variant for variant in self.variants if variant.baseline}
        return baselines["pytorch"] if "pytorch" in baselines else baselines["onnxruntime"]


# --- select ---------------------------------------------------------------------------------------


class Check(Record):
    """One line of the gate: what was asked, what was found."""

    name: str
    passed: bool
    value: float
    limit: float
    note: str


class VariantVerdict(Record):
    """A variant before the gate."""

    id: str
    label: str
    objective: float
    on_pareto_front: bool
    feasible: bool
    checks: tuple[Check, ...]


class Verdict(FileContract):
    """``verdict.json``: the winner, or why the original stays."""

    filename: ClassVar[str] = "verdict.json"
    bundle_digest: str
    winner: str | None
    reason: str
    objective: str
    batch_size: int
    variants: tuple[VariantVerdict, ...]
    test_metric: dict[str, float] = Field(description="test split, read once: original and winner")
    test_samples: int
    speedup: dict[str, Interval] = Field(description="winner against each baseline id, paired over blocks")


# --- deploy ---------------------------------------------------------------------------------------


class ServedMeasurement(Record):
    """One version measured through Triton by clients."""

    version: int
    batch_size: int
    concurrency: int
    p50_ms: float
    p99_ms: float
    throughput: float = Field(description="samples per second")
    requests: int


class ServingChoice(Record):
    """The instance count, threads and batching that were measured best."""

    instances: int
    threads: int
    max_batch_size: int
    queue_delay_us: int
    preferred_batch_sizes: tuple[int, ...] = ()


class Release(FileContract):
    """``release.json``: what serves now."""

    filename: ClassVar[str] = "release.json"
    model: Name
    version: int = Field(description="Triton version that answers an unversioned request")
    artifact_id: str
    artifact_digest: str
    bundle_digest: str
    recipe: RecipeRecord | None
    runtime: Runtime
    precision: Precision
    versions: dict[str, str] = Field(description="loaded Triton version -> artifact id")
    choice: ServingChoice
    served: tuple[ServedMeasurement, ...]
    golden_queries: int
    http_url: str
    grpc_url: str
    hardware_id: str
    code_version: str
    created: str = Field(description="UTC, ISO 8601")
    note: str
