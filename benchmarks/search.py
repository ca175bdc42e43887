"""A whole search by the product, from the settings to the winner's files; both benches of the optimiser take it."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from contest import Entrant
from peak import PeakMemory

from leanloop.core.child import run_limited
from leanloop.core.contracts import Artifacts, Verdict
from leanloop.core.settings import load_settings
from leanloop.core.workspace import with_absolute_paths

ROOT = Path(__file__).parents[1]

TOGETHER = (
    "student",
    "channel_pruning",
    "block_removal",
    "distillation",
    "quantisation_aware_training",
    "ort_static_int8",
    "nncf_int8",
    "openvino_bf16",
)
"""All that can make this network faster. Dynamic INT8 is for other kinds; masks alone gain bytes only when packed."""

STUDENT = {
    "model.student": "model:narrow_cnn",
    "model.student_parameters": {"first": [16, 12, 8], "second": [32, 24, 20, 16], "third": [48, 40, 32, 24]},
}
"""The owner's own factory, in 48 widths."""

_GRACE_SECONDS = 3600.0


@dataclass(frozen=True)
class Wanted:
    """What a search is asked for.

    Attributes:
        batch_size: Of the goal.
        techniques: What may be tried.
        minutes: Budget.
        bytes_percent: Most bytes of the result, in percent of the original's.
        drop: Share of the *validation* accuracy that may be lost.
    """

    batch_size: int
    techniques: tuple[str, ...]
    minutes: float
    bytes_percent: float
    drop: float


def search(folder: Path, run: Path, wanted: Wanted) -> dict[str, Any]:
    """A whole run, but for serving.

    Args:
        folder: Of the workspace, whose store keeps what is trained: a search that was interrupted goes on there, and
            another goal finds what it can use.
        run: Folder of this run's results.
        wanted: The goal.

    Returns:
        The winner as an `Entrant`, its recipe, what the search tried, how long it took and what memory it took.
    """
    original = (ROOT / "examples/fashion_mnist/residual_cnn.safetensors").stat().st_size
    settings = with_absolute_paths(
        load_settings(
            ROOT / "params.yaml",
            {
                **STUDENT,
                "workspace": str(folder.resolve()),
                "goal.batch_size": wanted.batch_size,
                "goal.max_accuracy_drop": wanted.drop,
                "goal.max_size_bytes": int(wanted.bytes_percent / 100 * original),
                "optimize.techniques": list(wanted.techniques),
                "optimize.budget_minutes": wanted.minutes,
                "optimize.trial_timeout_seconds": 60 * wanted.minutes,
                "optimize.max_trials": 400,
                "benchmark.batch_sizes": [1, 32],
            },
        ),
        ROOT,
    )
    started = time.monotonic()
    shutil.rmtree(run, ignore_errors=True)
    with PeakMemory() as memory:
        run_limited(
            "leanloop.pipelines.offline:run_offline",
            {"settings": settings.to_json(), "project": str(ROOT), "folder": str(run), "events": str(run / "events")},
            folder=run / "process",
            timeout_seconds=60 * wanted.minutes + _GRACE_SECONDS,
            memory_bytes=psutil.virtual_memory().total,
        )
    verdict, artifacts = Verdict.load(run / "verdict"), Artifacts.load(run / "artifacts")
    winner = next((one for one in artifacts.artifacts if one.id == verdict.winner), None)
    return {
        "reason": verdict.reason,
        "winner": winner and Entrant(winner.model, run / "artifacts" / winner.id).document(),
        "id": winner and winner.id,
        "recipe": winner and winner.recipe and winner.recipe.model_dump(mode="json"),
        "bundle": str(run / "bundle"),
        "minutes": (time.monotonic() - started) / 60,
        "peak_memory_bytes": memory.bytes,
        "trials": [row.model_dump(mode="json") for row in artifacts.trials],
    }
