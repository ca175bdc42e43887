"""Small real projects that tests bundle: a factory with weights, an ONNX file, a ``.pt2``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import settings

from leanloop.core.settings import Settings, parse_settings

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Files are tested side by side. What holds for a whole host, such as the lock of measurements, holds for each.
    room = Path(tempfile.gettempdir()) / f"leanloop-tests-{os.getuid()}-{worker}"
    room.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(room)

# The first example of a test may import for a second, and the machine may be busy: time decides no test.
settings.register_profile("leanloop", deadline=None)
settings.load_profile("leanloop")

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x)))

def build():
    return Net()
"""

DATA = """
import torch
from torch.utils.data import TensorDataset

SIZES = {"train": 96, "calibration": 32, "validation": 64, "test": 64}

def load(split, root):
    generator = torch.Generator().manual_seed(len(split))
    x = torch.randn(SIZES[split], 6, generator=generator)
    return TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long())
"""


class Project:
    """A folder as an owner would have it, with settings that can be changed before packing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "model.py").write_text(dedent(MODEL))
        (folder / "data.py").write_text(dedent(DATA))
        self.document: dict[str, Any] = {
            "model": {
                "name": "tiny",
                "file": "tiny.safetensors",
                "factory": "model:build",
                "code": ["model.py", "data.py"],
                "inputs": [{"name": "x", "shape": [6]}],
                "outputs": ["logits"],
            },
            "data": {"source": "data:load"},
        }
        self.save_weights()

    def net(self) -> torch.nn.Module:
        torch.manual_seed(0)
        scope: dict[str, Any] = {"__name__": "project_model"}
        exec(compile(dedent(MODEL), "model.py", "exec"), scope)
        return scope["build"]()  # type: ignore[no-any-return]

    def save_weights(self) -> None:
        safetensors.torch.save_file(self.net().state_dict(), self.folder / "tiny.safetensors")

    def use_onnx(self) -> None:
        torch.onnx.export(
            self.net().eval(),
            (torch.randn(2, 6),),
            self.folder / "tiny.onnx",
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        self.document["model"] |= {"file": "tiny.onnx", "factory": None, "code": ["data.py"]}

    def use_pt2(self) -> None:
        program = torch.export.export(
            self.net().eval(), (torch.randn(2, 6),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(program, self.folder / "tiny.pt2")
        self.document["model"] |= {"file": "tiny.pt2", "factory": None, "code": ["data.py"]}

    def use_npz(self, **arrays: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        content: dict[str, np.ndarray] = {}
        for split in ("train", "calibration", "validation", "test"):
            content[f"{split}/x"] = rng.normal(size=(32, 6)).astype(np.float32)
            content[f"{split}/target"] = rng.integers(0, 3, 32)
        content |= {key.replace("__", "/"): value for key, value in arrays.items()}
        np.savez(self.folder / "data.npz", **content)
        self.document["data"] = {"source": "data.npz"}

    @property
    def settings(self) -> Settings:
        return parse_settings(self.document, source="test")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[str], Project]:
    def make(name: str) -> Project:
        folder = tmp_path / name
        folder.mkdir()
        return Project(folder)

    return make
