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

from leanloop.core.contracts.decided import Check, Release, ServingChoice, VariantVerdict, Verdict
from leanloop.core.contracts.made import (
    NO_TIME_LEFT,
    Artifact,
    Artifacts,
    BundleManifest,
    CallPlan,
    Candidate,
    Candidates,
    Challenge,
    FileReference,
    LeftAlone,
    ModelFiles,
    Parity,
    RecipeRecord,
    SplitSummary,
    TrialRow,
)
from leanloop.core.contracts.measured import (
    Analysis,
    Benchmark,
    Execution,
    Interval,
    KernelTime,
    LatencyMeasurement,
    LayerCost,
    LayerSensitivity,
    OperatorCoverage,
    Opportunity,
    ServedMeasurement,
    VariantBenchmark,
)
from leanloop.core.contracts.record import Aim, FileContract, Precision, Record, Runtime

__all__ = [
    "NO_TIME_LEFT",
    "Aim",
    "Analysis",
    "Artifact",
    "Artifacts",
    "Benchmark",
    "BundleManifest",
    "CallPlan",
    "Candidate",
    "Candidates",
    "Challenge",
    "Check",
    "Execution",
    "FileContract",
    "FileReference",
    "Interval",
    "KernelTime",
    "LatencyMeasurement",
    "LayerCost",
    "LayerSensitivity",
    "LeftAlone",
    "ModelFiles",
    "OperatorCoverage",
    "Opportunity",
    "Parity",
    "Precision",
    "RecipeRecord",
    "Record",
    "Release",
    "Runtime",
    "ServedMeasurement",
    "ServingChoice",
    "SplitSummary",
    "TrialRow",
    "VariantBenchmark",
    "VariantVerdict",
    "Verdict",
]
