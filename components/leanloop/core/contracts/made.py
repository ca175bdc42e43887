"""What is made: the bundle of what the owner brought, candidates of the search, artifacts that can be served."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

from pydantic import Field

from leanloop.core.contracts.record import Aim, FileContract, Precision, Record, Runtime
from leanloop.core.settings import InputSpec, Name, StudentParameter

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
    student: str | None = Field(None, description="the owner's smaller architecture, module:function")
    student_parameters: dict[str, tuple[StudentParameter, ...]] = Field(
        default_factory=dict, description="values to try for its keyword arguments, the largest model first"
    )
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
    likeness: str | None = Field(None, description="file that makes old samples look like fresh ones")
    weights_bytes: int
    digest: str = Field(description="over weights, code, samples, data digests and these fields")


# --- optimize -------------------------------------------------------------------------------------


class RecipeRecord(Record):
    """A recipe as data: techniques in order, each ``{"technique": name, "version": n, ...its fields}``."""

    target: Literal["onnxruntime", "openvino"]
    techniques: tuple[dict[str, Any], ...]

    def describe(self) -> str:
        """One line for tables, such as ``channel_pruning + distillation + ort_static_int8 @ onnxruntime``."""
        names = " + ".join(str(config["technique"]) for config in self.techniques) or "as it is"
        return f"{names} @ {self.target}"


class CallPlan(Record):
    """How calls of one batch size are computed; without a plan, as one stream on all threads that there are."""

    threads: int = Field(ge=1, description="CPU threads of all streams together")
    streams: int = Field(1, ge=1, description="equal parts of the batch that are computed side by side")


class ModelFiles(Record):
    """Files that a runtime loads, and how it must load them."""

    runtime: Runtime
    precision: Precision
    main: str = Field(description="the file to open, relative")
    files: tuple[str, ...] = Field(description="all files that the runtime loads, relative")
    size_bytes: int
    hints: dict[str, str] = Field(default_factory=dict, description="runtime properties to set on load")
    plans: dict[int, CallPlan] = Field(
        default_factory=dict, description="by batch size, where one was seen to be faster"
    )

    def plan_of(self, batch_size: int, threads: int) -> CallPlan:
        """How a batch of this size is computed: by its own plan, or the usual way on ``threads`` threads."""
        return self.plans.get(batch_size, CallPlan(threads=threads))


class Candidate(FileContract):
    """``candidate.json``: one finished trial."""

    filename: ClassVar[str] = "candidate.json"
    id: str = Field(description="hash of recipe, bundle, data, tool versions and ISA")
    recipe: RecipeRecord
    bundle_digest: str
    model: ModelFiles
    metric: float = Field(description="validation")
    latency_ms: float = Field(description="p50 at the batch size and on the machine that it was first made for")
    size_bytes: int
    seconds: float = Field(description="time that the trial cost, cached parts included when first paid")
    training_seconds: float
    trial: int
    code_version: str
    hardware_id: str


NO_TIME_LEFT = "no time"
"""How the reason of a trial begins whose training did not fit into what was left of its time."""


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
    seconds: float = Field(description="that this line took; a trial's lines together are all of its time")
    reason: str
    slack: float | None = Field(
        None,
        description="of what the goal lets the metric lose, what is left beyond noise; negative where it loses more",
    )


class LeftAlone(Record):
    """Parts of a model that a technique left as they were, or choices that it could not make."""

    technique: str
    parts: tuple[str, ...] = Field(description="layers by name, or arguments of a student")
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
    left_alone: tuple[LeftAlone, ...] = Field((), description="by techniques that were tried")
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
    left_alone: tuple[LeftAlone, ...] = Field((), description="by techniques that were tried")
    not_asked_for: tuple[str, ...] = Field((), description="techniques that the settings do not name")
    trials: tuple[TrialRow, ...] = Field(description="the search log of all workers")
    challenge: Challenge | None = Field(None, description="in a re-optimisation")

    def untried(self) -> dict[str, str]:
        """All that was not tried, and why: techniques, parts of the model, what the budget left, what nobody wanted."""
        found = dict(self.left_out)
        for one in self.left_alone:
            key, told = f"{one.technique}, left alone", f"{', '.join(one.parts)}: {one.reason}"
            found[key] = f"{found[key]}; {told}" if key in found else told
        late = Counter(row.recipe.describe() for row in self.trials if row.reason.startswith(NO_TIME_LEFT))
        if late:
            found["no time was left for"] = "; ".join(f"{count} × {recipe}" for recipe, count in late.items())
        if self.not_asked_for:
            found["not asked for"] = ", ".join(self.not_asked_for)
        return found
