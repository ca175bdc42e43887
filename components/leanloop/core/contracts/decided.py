"""What is decided: which variant wins, and what serves since."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from leanloop.core.contracts.made import RecipeRecord
from leanloop.core.contracts.measured import Interval, ServedMeasurement
from leanloop.core.contracts.record import FileContract, Precision, Record, Runtime
from leanloop.core.settings import Name

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
