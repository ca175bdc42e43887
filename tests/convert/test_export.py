"""Export to ONNX: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from leanloop.bundle import Bundle, pack
from leanloop.convert import check_parity, export_onnx, fp32_onnx, onnx_model_files
from leanloop.convert.export import write_original
from leanloop.core.errors import ConversionError
from leanloop.runtime import open_session
from tests.conftest import Project


def test_the_file_is_small_folded_named_and_has_a_dynamic_batch_axis(mixed: Bundle, mixed_onnx: Path) -> None:
    model = onnx.load(mixed_onnx)
    assert [value.name for value in model.graph.input] == ["image", "tokens", "position"]
    assert [value.name for value in model.graph.output] == ["logits", "score"]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input} == {"batch"}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert [file.name for file in mixed_onnx.parent.iterdir()] == ["model.onnx"]


def test_the_exporter_prints_nothing(
    mixed: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    export_onnx(mixed, mixed.module(), tmp_path / "model.onnx", check=False)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


class Specialised(nn.Module):
    """Bakes the example's batch size in."""

    def forward(self, image: Tensor, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        fixed = position.reshape(3, 4) if position.shape[0] == 3 else position * 2
        return fixed[:, :3], fixed[:, :1]


class Random(nn.Module):
    """Left in training mode: answers differently each time."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, image: Tensor, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        dropped = self.dropout(position)
        return dropped[:, :3], dropped[:, :1]


class Nan(nn.Module):
    def forward(self, image: Tensor, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        wrong = torch.log(-position.abs() - 1.0)
        return wrong[:, :3], wrong[:, :1]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Specialised().eval(), "dynamic batch axis"),
        (Random().train(), "answers otherwise"),
        (Nan().eval(), "NaN or infinity"),
    ],
    ids=["batch-specialised", "random", "nan"],
)
def test_an_export_that_would_mislead_is_refused_and_leaves_nothing(
    module: nn.Module, message: str, mixed: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=message):
        export_onnx(mixed, module, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_of_over_two_gigabytes_go_into_a_file_beside(
    mixed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanloop.convert.export._SINGLE_FILE_BYTES", 0)
    export_onnx(mixed, mixed.module(), tmp_path / "model.onnx")
    model = onnx_model_files(tmp_path / "model.onnx", "fp32")
    assert model.files == ("model.onnx", "model.onnx.data")
    assert model.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert check_parity(mixed, model, tmp_path, threads=1).passed


@pytest.mark.parametrize("form", ["factory", "onnx", "pt2"])
def test_every_kind_of_original_becomes_the_same_onnx(form: str, project: Project, tmp_path: Path) -> None:
    if form != "factory":
        getattr(project, f"use_{form}")()
    pack(project.settings, project.folder, tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    if form == "factory":
        fp32_onnx(bundle, path)
    else:
        write_original(str(bundle.folder), str(path))
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    session = open_session(onnx_model_files(path, "fp32"), path.parent, threads=1)
    with torch.inference_mode():
        wanted = project.net()(torch.from_numpy(bundle.samples["x"])).numpy()
    np.testing.assert_allclose(session.run(bundle.samples)["logits"], wanted, atol=1e-5)


def test_an_onnx_file_with_a_fixed_batch_is_refused(project: Project, tmp_path: Path) -> None:
    project.use_onnx()
    model = onnx.load(project.folder / "tiny.onnx")
    shape = numpy_helper.from_array(np.array([8, 3]), "fixed_shape")
    model.graph.initializer.append(shape)
    last = model.graph.node[-1]
    last.output[0] = "free"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["free", "fixed_shape"], ["logits"]))
    onnx.save(model, project.folder / "tiny.onnx")
    pack(project.settings, project.folder, tmp_path / "bundle")
    with pytest.raises(ConversionError, match="batch axis is fixed"):
        write_original(str(tmp_path / "bundle"), str(tmp_path / "model.onnx"))


def test_outputs_may_be_called_as_the_exporter_calls_what_is_inside(project: Project, tmp_path: Path) -> None:
    """The exporter calls tensors of this network ``linear`` and ``relu``."""
    project.document["model"] |= {"inputs": [{"name": "linear", "shape": [6]}], "outputs": ["relu"]}
    model = project.folder / "model.py"
    model.write_text(model.read_text().replace("return self.head(", "return 1.0 * self.head("))
    pack(project.settings, project.folder, tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    export_onnx(bundle, bundle.module(), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["linear", "relu"]
    names = [name for node in graph.node for name in node.output]
    assert len(set(names)) == len(names)
