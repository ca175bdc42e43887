"""The optimiser in a notebook: live objects in, a result out."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from rich.text import Text
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leanloop.bundle import Bundle, Split, pack
from leanloop.core.errors import BundleError, DataError, SettingsError, StoreError
from leanloop.core.settings import load_settings
from leanloop.optimize import Result, optimize
from leanloop.optimize.interactive.project import PARAMS, Splits, write_project
from leanloop.optimize.interactive.samples import gather, input_names

STEPS = ("bundle", "analyze", "optimize", "convert", "benchmark", "select")
QUICK = {
    "targets": ["onnxruntime"],
    "optimize.workers": 1,
    "benchmark.blocks": 4,
    "benchmark.block_seconds": 0.05,
    "benchmark.warmup_seconds": 0.05,
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "optimize.md"


class Two(nn.Module):
    """Takes two inputs, and gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.first(left) + self.second(right)
        return found, found.sum(dim=1) * scale


def arrays(samples: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(samples, 3, generator=generator), torch.randn(samples, 2, generator=generator)
    return left, right, torch.randint(0, 4, (samples,), generator=generator, dtype=torch.int32)


LEFT, RIGHT, LABELS = arrays()


@pytest.mark.parametrize(
    "loader",
    [
        TensorDataset(LEFT, RIGHT, LABELS),
        DataLoader(TensorDataset(LEFT, RIGHT, LABELS), batch_size=7),
        [((LEFT, RIGHT), LABELS)],
        [({"right": RIGHT, "left": LEFT}, LABELS)],
        [{"right": RIGHT, "left": LEFT, "labels": LABELS}],
        [(LEFT.double().numpy(), RIGHT.numpy(), LABELS.numpy())],
    ],
    ids=["dataset", "loader", "nested", "mapping", "one mapping", "arrays"],
)
def test_whatever_a_loader_yields_is_read_alike(loader: Any) -> None:
    found = gather(loader, input_names(Two()), "train")
    assert list(found.inputs) == ["left", "right"]
    np.testing.assert_allclose(found.inputs["left"], LEFT.numpy())
    np.testing.assert_array_equal(found.targets, LABELS.numpy())  # type: ignore[arg-type]
    assert (found.inputs["left"].dtype, found.targets.dtype) == (np.float32, np.int64)  # type: ignore[union-attr]


def test_a_loader_without_targets() -> None:
    assert gather(DataLoader(TensorDataset(LEFT), batch_size=8), ["left"], "calibration").targets is None
    assert gather([LEFT], ["left"], "calibration").targets is None


def test_bytes_stay_bytes() -> None:
    assert gather([LEFT.to(torch.uint8)], ["left"], "train").inputs["left"].dtype == np.uint8


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        ([], "yields no batches"),
        ([(LEFT, RIGHT, LABELS, LABELS)], "does not hold the inputs"),
        ([{"left": LEFT}], "lacks inputs"),
        ([(LEFT, RIGHT, LABELS), (LEFT, RIGHT)], "some have none"),
        ([(LEFT, RIGHT), (LEFT[:, :2], RIGHT)], "differ in shape"),
        ([("some", "text")], "no tensor"),
        ([(LEFT, torch.complex(RIGHT, RIGHT))], "complex"),
    ],
)
def test_what_is_wrong_with_a_loader_is_told(loader: Any, told: str) -> None:
    with pytest.raises(DataError, match=told) as failure:
        gather(loader, ["left", "right"], "train")
    assert "train loader" in failure.value.where


def _write(folder: Path, module: nn.Module, validation: Split, **further: Any) -> Bundle:
    arguments: dict[str, Any] = {
        "name": "m",
        "metric": None,
        "student": None,
        "student_parameters": {},
        "choices": {},
        "overrides": {},
    }
    splits = Splits(further.pop("train", None), None, validation, None)
    settings = write_project(folder / "project", module, splits, **{**arguments, **further})
    pack(settings, folder / "project", folder / "bundle")
    return Bundle(folder / "bundle")


def test_a_module_of_a_file_that_nobody_else_has_is_packed_and_answers_as_before(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "owners_networks.py"
    source.parent.mkdir()
    source.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(3, 4)\n"
        "    def forward(self, left):\n"
        "        return helper(self.layer(left))\n"
        "def helper(value):\n"
        "    return value * 2\n"
    )
    spec = importlib.util.spec_from_file_location("owners_networks", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["owners_networks"] = module
    try:
        spec.loader.exec_module(module)
        net = module.Net()
        bundle = _write(tmp_path, net, gather([(LEFT, LABELS)], ["left"], "validation"))
    finally:
        del sys.modules["owners_networks"]
    source.unlink()
    again = bundle.module()
    assert torch.equal(again(LEFT), net(LEFT))
    assert bundle.metric.name == "accuracy"
    assert bundle.manifest.task == "classification"


def test_validation_is_halved_for_the_test_and_calibration_is_drawn(tmp_path: Path) -> None:
    train = gather([(LEFT, LABELS)], ["left"], "train")
    bundle = _write(tmp_path, nn.Linear(3, 4), gather([(LEFT, LABELS)], ["left"], "validation"), train=train)
    validation, test = bundle.split("validation"), bundle.split("test")
    assert len(validation) == len(test) == 10
    both = np.concatenate([validation.inputs["left"], test.inputs["left"]])
    assert {tuple(row) for row in both} == {tuple(row) for row in LEFT.numpy()}
    assert len(bundle.split("calibration")) == 20


def test_several_inputs_and_outputs_a_metric_and_a_student_of_the_owners(tmp_path: Path) -> None:
    offset = 0.25

    def metric(outputs: np.ndarray, targets: np.ndarray) -> float:
        return float((outputs.argmax(1) == targets).mean()) + offset

    def student(width: int) -> nn.Module:
        return nn.Sequential(OrderedDict(a=nn.Linear(3, width), b=nn.Linear(width, 4)))

    validation = gather([(LEFT, RIGHT, LABELS)], ["left", "right"], "validation")
    bundle = _write(tmp_path, Two(), validation, metric=metric, student=student, student_parameters={"width": [8, 2]})
    assert [spec.name for spec in bundle.manifest.inputs] == ["left", "right"]
    assert bundle.manifest.outputs == ("output_0", "output_1")
    assert bundle.metric.score(np.eye(4), np.arange(4)) == 1.25
    assert bundle.manifest.student_parameters == {"width": (8, 2)}
    assert bundle.owner_object("live:student")(width=2).a.out_features == 2


@pytest.mark.parametrize(
    ("targets", "metric"), [(LABELS.float(), "rmse"), (None, "agreement"), (LABELS, "accuracy")], ids=str
)
def test_the_usual_metric_follows_the_targets(tmp_path: Path, targets: Any, metric: str) -> None:
    loader = [LEFT] if targets is None else [(LEFT, targets)]
    settings = write_project(
        tmp_path,
        nn.Linear(3, 4),
        Splits(None, None, gather(loader, ["left"], "validation"), None),
        name="m",
        metric=None,
        student=None,
        student_parameters={},
        choices={"goal": {"batch_size": 4}},
        overrides={"goal.threads": 2},
    )
    assert settings.metric == metric
    assert (settings.goal.batch_size, settings.goal.threads) == (4, 2)
    assert load_settings(tmp_path / PARAMS).goal.batch_size == 4


class _Locked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 4)
        self.lock = threading.Lock()  # which cannot be pickled

    def __deepcopy__(self, memo: dict[int, Any]) -> _Locked:
        return self


def test_what_is_wrong_with_a_call_is_told(tmp_path: Path) -> None:
    loader = [(LEFT, LABELS)]
    with pytest.raises(BundleError, match="cannot be pickled"):
        optimize(_Locked(), None, loader, workspace=tmp_path)
    with pytest.raises(BundleError, match="fails on the first samples"):
        optimize(nn.Linear(5, 4), None, loader, workspace=tmp_path)
    with pytest.raises(SettingsError, match="no student"):
        optimize(nn.Linear(3, 4), None, loader, student_parameters={"width": [1]}, workspace=tmp_path)
    with pytest.raises(SettingsError, match="lost_key"):
        optimize(nn.Linear(3, 4), None, loader, settings={"lost_key": 1}, workspace=tmp_path)
    with pytest.raises(DataError, match="both validation and test"):
        optimize(nn.Linear(3, 4), None, [(LEFT[:1], LABELS[:1])], workspace=tmp_path)


def test_a_failure_of_a_step_comes_back_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="out of range") as failure:
        optimize(nn.Linear(3, 2), None, [(LEFT, LABELS)], workspace=tmp_path, progress=False)
    assert failure.value.value == 3


def test_the_first_code_of_the_document_runs_and_gives_a_smaller_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, example, after = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len([line for line in first.splitlines() if line.strip()]) <= 5
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(example, names)
    before = {key: value.clone() for key, value in names["model"].state_dict().items()}
    exec(first, names)
    result: Result = names["result"]
    assert all(torch.equal(value, before[key]) for key, value in names["model"].state_dict().items())

    board = result.leaderboard
    assert list(board["verdict"]).count("winner") == 1
    best = result.best
    assert not best.is_original
    assert best.speedup.value > 1
    assert best.size_share < 1
    assert "times as fast" in str(result)
    validation = gather(names["validation"], ["pixels"], "validation")
    answers = best(validation.inputs["pixels"])
    assert isinstance(answers, np.ndarray)
    assert (answers.argmax(1) == validation.targets).mean() >= 0.93
    with pytest.raises(DataError, match="other inputs"):
        best(1, 2)

    exec(after, names)
    kept = tmp_path / "small-digits"
    assert json.loads((kept / "model.json").read_text())["label"] == best.label
    assert (kept / best.artifact.model.main).exists()
    assert {"leaderboard.csv", "trials.csv", "report.html"} <= {path.name for path in kept.iterdir()}
    with pytest.raises(StoreError, match="already"):
        result.save(kept)
    assert set(result.trials["state"]) <= {"complete", "pruned", "failed"}
    assert len(result.trials) >= len(board) - 3
    figure = result.pareto_plot()
    assert sum(len(trace.x) for trace in figure.data if trace.mode == "markers") == len(board)
    assert Result(result.folder).best.label == best.label


def test_the_first_code_of_the_document_runs_in_a_notebook_and_shows_its_bars(tmp_path: Path) -> None:
    first, example, _ = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    # One target, one technique, short measurements: what the search finds is looked at elsewhere.
    quick = first.replace("minutes=0.5", f'minutes=0.05, techniques=["ort_dynamic_int8"], settings={QUICK}')
    assert quick != first
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in (example, quick, "result")])
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(tmp_path / "kernel"))
    NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()

    called, asked = (cell.outputs for cell in notebook.cells[1:])
    bars = next(output.data for output in called if output.output_type == "display_data")
    shown = Text.from_ansi(bars["text/plain"]).plain.splitlines()
    assert [line.split()[:2] for line in shown] == [["✓", step] for step in STEPS]
    assert bars["text/html"].count("✓") == len(STEPS)
    printed = "".join(output.text for output in called if output.output_type == "stream" and output.name == "stdout")
    assert "times as fast at batch 8" in printed
    assert "report.html" in printed
    board, result = called[-1], asked[-1]
    assert board.output_type == result.output_type == "execute_result"
    assert "p50_ms" in board.data["text/html"]
    assert result.data["text/plain"] == printed.strip()
    assert "<table" in result.data["text/html"]
