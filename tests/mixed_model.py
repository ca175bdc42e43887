"""A small model that has all that a runtime and an exporter must take; packed and exported once per test run.

Three inputs of the three types, a convolution with batch norm, an embedding, and two outputs.
"""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from leanloop.bundle import Bundle, pack
from leanloop.convert import baselines, export_onnx
from leanloop.core.contracts import Artifact
from tests.conftest import Project

MODEL = """
import torch
from torch import nn

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.words = nn.Embedding(10, 8)
        self.head = nn.Linear(8 + 8 + 4, 3)
        self.score = nn.Linear(8, 1)

    def forward(self, image, tokens, position):
        seen = torch.relu(self.norm(self.conv(image.float() / 255))).mean((2, 3))
        read = self.words(tokens).mean(1)
        return self.head(torch.cat([seen, read, position], 1)), self.score(seen)

def build():
    torch.manual_seed(0)
    model = Mixed()
    nn.init.uniform_(model.norm.running_mean, -0.1, 0.1)
    nn.init.uniform_(model.norm.running_var, 0.5, 2.0)
    return model
"""

INPUTS = [
    {"name": "image", "shape": [1, 8, 8], "dtype": "uint8"},
    {"name": "tokens", "shape": [5], "dtype": "int64"},
    {"name": "position", "shape": [4]},
]


class MixedProject(Project):
    """The owner's folder of this model; its data are a ``.npz``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        scope: dict[str, object] = {"__name__": "mixed_project"}
        exec(compile(dedent(MODEL), "model.py", "exec"), scope)
        self.build = scope["build"]
        (folder / "model.py").write_text(dedent(MODEL))
        self.document["model"] |= {"inputs": INPUTS, "outputs": ["logits", "score"], "code": ["model.py"]}
        self.save_weights()
        rng = np.random.default_rng(0)
        content: dict[str, np.ndarray] = {}
        for split in ("train", "calibration", "validation", "test"):
            content[f"{split}/image"] = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
            content[f"{split}/tokens"] = rng.integers(0, 10, (40, 5))
            content[f"{split}/position"] = rng.normal(size=(40, 4)).astype(np.float32)
            content[f"{split}/target"] = rng.integers(0, 3, 40)
        np.savez(folder / "data.npz", **content)
        self.document["data"] = {"source": "data.npz"}
        self.document["benchmark"] = {"batch_sizes": [1, 8], "blocks": 4, "block_seconds": 0.01, "warmup_seconds": 0.05}

    def net(self):  # type: ignore[no-untyped-def]
        return getattr(self, "build", super().net)()


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.getbasetemp() / "mixed"
    if not folder.exists():
        (folder / "project").mkdir(parents=True)
        project = MixedProject(folder / "project")
        pack(project.settings, project.folder, folder / "bundle")
    return Bundle(folder / "bundle")


@pytest.fixture(scope="session")
def mixed_onnx(mixed: Bundle) -> Path:
    path = mixed.folder.parent / "exported" / "model.onnx"
    if not path.exists():
        export_onnx(mixed, mixed.module(), path)
    return path


@pytest.fixture(scope="session")
def mixed_baselines(mixed: Bundle) -> tuple[list[Artifact], Path]:
    """Artifacts of the original, and the folder that holds one folder for each."""
    folder = mixed.folder.parent / "baselines"
    record = folder.with_suffix(".json")
    if not record.exists():
        found = baselines(mixed, folder, ["onnxruntime", "openvino"])
        record.write_text(json.dumps([artifact.model_dump(mode="json") for artifact in found]))
    return [Artifact.model_validate(document) for document in json.loads(record.read_text())], folder
