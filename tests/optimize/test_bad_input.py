"""What an owner may bring that some technique cannot take: it is said, the others go on, and nothing breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leanloop.analyze import analyze
from leanloop.bundle import Bundle, pack
from leanloop.convert import export_onnx
from leanloop.core.child import Child
from leanloop.core.contracts import Candidates
from leanloop.core.errors import ConversionError, DataError, TrialError
from leanloop.core.store import Store
from leanloop.optimize import Workshop, holds, search_worker
from leanloop.optimize.study import store_url
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig, prune
from tests.conftest import Project

FORWARD = "        return self.head(torch.relu(self.hidden(x)))"


USUAL = ("channel_pruning", "distillation", "ort_static_int8")

STUDENT = """

class Refused(Net):
    def forward(self, x):
        return super().forward(x) + torch.linalg.eigvalsh(x.T @ x).sum()

def refused():
    return Refused()
"""
"""Runs and trains in PyTorch; ONNX has no eigenvalues."""


def search(
    project: Project, root: Path, *, minutes: float = 0.5, most: int = 4, techniques: tuple[str, ...] = USUAL
) -> Candidates:
    """One worker's search over pruning and INT8 on a project."""
    project.document |= {"workspace": str(root / "workspace"), "targets": ["onnxruntime"]}
    project.document["optimize"] = {
        "techniques": list(techniques),
        "budget_minutes": minutes,
        "workers": 1,
        "max_trials": most,
    }
    settings = project.settings
    pack(settings, project.folder, root / "bundle")
    bundle = Bundle(root / "bundle")
    with Child() as child:
        analysis = analyze(bundle, settings, Store(store_url(settings)), child)
    return search_worker(bundle, analysis, settings, root / "found", 0)


def edit(project: Project, old: str, new: str) -> None:
    """Change the owner's architecture."""
    model = project.folder / "model.py"
    text = model.read_text()
    assert old in text
    model.write_text(text.replace(old, new))


def test_a_model_that_cannot_be_traced_is_quantised_all_the_same(project: Project, tmp_path: Path) -> None:
    edit(project, FORWARD, f"        with torch.no_grad():\n    {FORWARD}")
    found = search(project, tmp_path)
    kept = [row for row in found.trials if holds(row)]
    assert [config["technique"] for row in kept for config in row.recipe.techniques] == ["ort_static_int8"]
    pruned = [row for row in found.trials if row.recipe.techniques and row not in kept]
    assert pruned
    assert all(row.state == "failed" and "No channel can be removed" in row.reason for row in pruned)


def test_a_budget_too_small_for_a_training_gives_post_training_candidates(project: Project, tmp_path: Path) -> None:
    found = search(project, tmp_path, minutes=0.005)
    kept = [row.recipe.describe() for row in found.trials if holds(row)]
    assert kept == ["as it is @ onnxruntime", "ort_static_int8 @ onnxruntime"]


def test_one_calibration_sample_is_enough_to_go_on(project: Project, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    project.use_npz(calibration__x=rng.normal(size=(1, 6)).astype(np.float32), calibration__target=np.array([1]))
    found = search(project, tmp_path)
    made = [row for row in found.trials if row.state == "complete"]
    assert any(row.recipe.describe().startswith("ort_static_int8") for row in made)


def test_calibration_samples_that_are_no_numbers_are_refused_at_once(project: Project, tmp_path: Path) -> None:
    broken = np.full((32, 6), np.nan, np.float32)
    project.use_npz(calibration__x=broken)
    with pytest.raises(DataError, match="NaN") as caught:
        pack(project.settings, project.folder, tmp_path / "bundle")
    assert "calibration" in str(caught.value)


def test_importance_that_needs_labels_says_so(
    make_project: Callable[[str], Project], workshop: Workshop, tmp_path: Path
) -> None:
    project = make_project("unlabelled")
    data = project.folder / "data.py"
    labelled = "TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long())"
    assert labelled in data.read_text()
    data.write_text(data.read_text().replace(labelled, "TensorDataset(x)"))
    project.document["metric"] = "agreement"
    pack(project.settings, project.folder, tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    with pytest.raises(TrialError, match="needs labelled") as caught:
        prune(
            bundle.module(), ChannelPruningConfig(importance="taylor", round_to=1), Workshop(bundle, workshop.store, 1)
        )
    assert "magnitude" in str(caught.value)


def test_a_layer_that_the_exporter_refuses_is_named(project: Project, tmp_path: Path) -> None:
    edit(project, "torch.relu(self.hidden(x))", "self.hidden(x) + torch.linalg.eigvalsh(x.T @ x).sum()")
    pack(project.settings, project.folder, tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    with pytest.raises(ConversionError) as caught:
        export_onnx(bundle, bundle.module(), tmp_path / "model.onnx")
    assert "eig" in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()


def test_a_candidate_that_the_exporter_refuses_fails_alone(project: Project, tmp_path: Path) -> None:
    code = project.folder / "model.py"
    code.write_text(code.read_text() + STUDENT)
    project.document["model"] |= {"student": "model:refused"}
    found = search(project, tmp_path, most=6, techniques=("student", *USUAL))
    rows = [(row, {config["technique"] for config in row.recipe.techniques}) for row in found.trials]
    students = [row for row, names in rows if "student" in names]
    assert students
    assert all(row.state == "failed" and "No ONNX function found" in row.reason for row in students)
    assert any(names == {"ort_static_int8"} and holds(row) for row, names in rows)
    later = rows[found.trials.index(students[0]) + 1 :]
    assert any("channel_pruning" in names and row.state != "failed" for row, names in later)
