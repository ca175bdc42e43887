"""The whole line for a model unlike the examples: three inputs of three types, two outputs, a regression."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from leanloop.bundle.owner_code import import_object
from leanloop.core.contracts import Artifacts, Benchmark, Release
from leanloop.core.settings import parse_settings
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.serving import Ports, TritonClient, stack
from leanloop.steps import analyze, benchmark, bundle, convert, deploy, optimize, select

MODEL = """
import torch
from torch import nn


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.body = nn.Sequential(nn.Linear(4 + 16 + 2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.price, self.spread = nn.Linear(64, 1), nn.Linear(64, 2)

    def forward(self, values, words, flags):
        joined = torch.cat([values, self.words(words).mean(1), flags.float()], dim=1)
        hidden = self.body(joined)
        return self.price(hidden), self.spread(hidden)


def build():
    return Mixed()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(dedent(MODEL))
    torch.manual_seed(0)
    net = import_object("model:build", tmp_path)()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "mixed.safetensors")
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 256), ("calibration", 64), ("validation", 128), ("test", 128)):
        inputs = {
            "values": rng.normal(size=(count, 4)).astype(np.float32),
            "words": rng.integers(0, 20, (count, 3)),
            "flags": rng.integers(0, 2, (count, 2)).astype(np.uint8),
        }
        with torch.no_grad():
            price, _ = net(*(torch.from_numpy(values) for values in inputs.values()))
        arrays |= {f"{split}/{name}": values for name, values in inputs.items()}
        arrays[f"{split}/target"] = price.numpy() + 0.1 * rng.normal(size=(count, 1)).astype(np.float32)
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path


def settings_document(ports: Ports, metric: str) -> dict[str, Any]:
    return {
        "model": {
            "name": f"mixed-{metric}",
            "file": "mixed.safetensors",
            "factory": "model:build",
            "code": ["model.py"],
            "inputs": [
                {"name": "values", "shape": [4]},
                {"name": "words", "shape": [3], "dtype": "int64"},
                {"name": "flags", "shape": [2], "dtype": "uint8"},
            ],
            "outputs": ["price", "spread"],
            "task": "regression",
        },
        "data": {"source": "data.npz"},
        "metric": metric,
        "goal": {"minimise": "latency_p99", "batch_size": 4, "max_accuracy_drop": 0.1},
        "optimize": {"budget_minutes": 0.2, "workers": 1, "finalists": 2, "max_trials": 2},
        "benchmark": {"batch_sizes": [4], "blocks": 4, "block_seconds": 0.02, "warmup_seconds": 0.05},
        "serving": {
            "http_url": f"127.0.0.1:{ports.http}",
            "grpc_url": f"127.0.0.1:{ports.grpc}",
            "metrics_url": f"127.0.0.1:{ports.metrics}",
            "instances": [1],
            "queue_delays_us": [0],
        },
    }


@pytest.mark.parametrize("metric", ["rmse", "agreement"])
def test_mixed_inputs_two_outputs_and_a_regression_reach_triton(project: Path, tmp_path: Path, metric: str) -> None:
    settings = with_absolute_paths(parse_settings(settings_document(Ports.free(), metric), source="test"), project)
    out = {name: tmp_path / "out" / name for name in ("b", "a", "c", "f", "m", "v", "r")}
    bundle.run(settings, project=project, bundle=out["b"])
    analyze.run(settings, bundle=out["b"], analysis=out["a"])
    optimize.run(settings, bundle=out["b"], analysis=out["a"], candidates=out["c"], worker=0)
    convert.run(settings, bundle=out["b"], candidates=[out["c"]], artifacts=out["f"])
    benchmark.run(settings, bundle=out["b"], artifacts=out["f"], benchmark=out["m"])
    common = {"bundle": out["b"], "analysis": out["a"], "artifacts": out["f"], "benchmark": out["m"]}
    select.run(settings, **common, verdict=out["v"])
    try:
        deploy.run(settings, **common, verdict=out["v"], release=out["r"])
        release, measured = Release.load(out["r"]), Benchmark.load(out["m"])
        assert measured.higher_is_better == (metric == "agreement")
        assert len(Artifacts.load(out["f"]).artifacts) > 3
        with TritonClient(release.http_url, release.grpc_url) as client:
            answer = client.infer(release.model, client.zeros(release.model))
        assert {name: values.shape for name, values in answer.items()} == {"price": (1, 1), "spread": (1, 2)}
    finally:
        stack.down(Workspace(settings).serving)
