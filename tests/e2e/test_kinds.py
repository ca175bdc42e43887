"""The examples of other kinds of models go through the whole line but serving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from leanloop.core.contracts import Artifacts, Benchmark, Verdict
from leanloop.core.settings import load_settings
from leanloop.core.workspace import with_absolute_paths
from leanloop.pipelines.offline import run_offline

EXAMPLE = Path(__file__).parents[2] / "examples" / "kinds"

KINDS = ("depthwise", "vision_transformer", "recurrent", "linear", "wide")

SMALLER = {"linear": 0.5, "wide": 0.3}
"""Share of the original's bytes that the smallest variant of equal accuracy takes at most, trained or not.

The others are so small that the text of their graphs outweighs their weights.
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run([sys.executable, EXAMPLE / "train.py", "--out", folder], check=True)
    return folder


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_goes_through_the_line(
    kind: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANLOOP_EVENTS", "")  # `run_offline` sets it; it must not outlive the test
    settings = with_absolute_paths(
        load_settings(
            EXAMPLE / f"{kind}.yaml",
            {
                "model.file": str(trained / f"{kind}.safetensors"),
                "workspace": str(tmp_path / "workspace"),
                "optimize.budget_minutes": 0.25,
            },
        ),
        EXAMPLE,
    )
    run_offline(settings.to_json(), str(EXAMPLE), str(tmp_path), str(tmp_path / "events.jsonl"))
    verdict, benchmark = Verdict.load(tmp_path / "verdict"), Benchmark.load(tmp_path / "benchmark")
    artifacts = Artifacts.load(tmp_path / "artifacts")
    assert artifacts.trials, "something was tried"
    assert verdict.reason
    limit = (1 - settings.goal.max_accuracy_drop) * benchmark.original.metric
    right = [variant for variant in benchmark.variants if not variant.baseline and variant.metric >= limit]
    assert right, "post-training techniques at least keep the accuracy"
    if kind in SMALLER:
        assert min(variant.size_bytes for variant in right) <= SMALLER[kind] * benchmark.original_size_bytes
    if verdict.winner is not None:
        assert verdict.winner in {variant.id for variant in right}
