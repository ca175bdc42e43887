"""A real Triton for all serving tests, and small ONNX models whose answers are known."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from leanloop.core.contracts import ModelFiles, Runtime, ServingChoice
from leanloop.serving import (
    CaptureChoice,
    Golden,
    Journal,
    ModelConfig,
    ModelRepository,
    ModelSpec,
    Package,
    Ports,
    Promotion,
    TensorSpec,
    TritonClient,
    TritonHome,
    TritonServer,
    promote,
)

QUERIES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
CHOICE = ServingChoice(instances=1, threads=1, max_batch_size=8, queue_delay_us=0)
SLOW_NUMBERS = 20_000_000
"""What a slow model looks at: long enough to tell beside the pauses of a machine that others use, too."""


def _save(path: Path, nodes: list[onnx.NodeProto], inputs, outputs, weights=()) -> None:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, ["N", *shape]) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, ["N", *shape]) for name, kind, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def linear_spec(name: str) -> ModelSpec:
    return ModelSpec(name=name, inputs=(TensorSpec(name="x", shape=(4,)),), outputs=(TensorSpec(name="y", shape=(3,)),))


def golden_of(inputs: dict[str, Any], outputs: dict[str, Any]) -> Golden:
    """Queries whose answers do not depend on the size of the batch."""
    return Golden(inputs, {1: outputs}, 1e-5, 1e-5)


class Models:
    """Packages of tiny models, each in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0

    def _folder(self) -> Path:
        self._count += 1
        folder = self._root / str(self._count)
        folder.mkdir(parents=True)
        return folder

    def _package(self, folder: Path, golden: Golden, runtime: Runtime = "onnxruntime", name: str = "") -> Package:
        files = ModelFiles(
            runtime=runtime,
            precision="fp32",
            main="model.onnx",
            files=("model.onnx",),
            size_bytes=1,
        )
        return Package(name or f"artifact-{folder.name}", files, folder, golden)

    def linear(
        self, scale: float, runtime: Runtime = "onnxruntime", *, claims: float | None = None, slow: bool = False
    ) -> Package:
        """``y = scale * x @ W``, with golden answers of ``claims`` where that is another scale.

        A slow one also looks at `SLOW_NUMBERS` numbers, for nothing.
        """
        folder = self._folder()
        weights = np.arange(12, dtype=np.float32).reshape(4, 3)
        work = [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Expand", ["sum", "millions"], ["many"]),
            helper.make_node("ReduceMin", ["many"], ["least"], keepdims=0),
            helper.make_node("Sub", ["least", "sum"], ["nothing"]),
            helper.make_node("Add", ["product", "nothing"], ["y"]),
        ]
        _save(
            folder / "model.onnx",
            [helper.make_node("MatMul", ["x", "W"], ["product" if slow else "y"]), *(work if slow else [])],
            [("x", TensorProto.FLOAT, [4])],
            [("y", TensorProto.FLOAT, [3])],
            [("W", weights * np.float32(scale)), *([("millions", np.array([SLOW_NUMBERS]))] if slow else [])],
        )
        answers = QUERIES @ weights * np.float32(scale if claims is None else claims)
        golden = golden_of({"x": QUERIES}, {"y": answers})
        return self._package(folder, golden, runtime, f"linear-{runtime}-{scale}")

    def broken(self) -> Package:
        """A file that is no model."""
        folder = self._folder()
        (folder / "model.onnx").write_bytes(b"not a model")
        return self._package(folder, golden_of({"x": QUERIES}, {"y": QUERIES[:, :3]}))

    def mixed(self) -> tuple[ModelSpec, Package]:
        """Two inputs (uint8 and int64), two outputs: mean of the image, and ``table[token] = 10 * token``."""
        folder = self._folder()
        _save(
            folder / "model.onnx",
            [
                helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", ["pixels"], ["brightness"], axes=[1, 2], keepdims=0),
                helper.make_node("Gather", ["table", "token"], ["looked_up"]),
            ],
            [("image", TensorProto.UINT8, [2, 2]), ("token", TensorProto.INT64, [3])],
            [("brightness", TensorProto.FLOAT, []), ("looked_up", TensorProto.INT64, [3])],
            [("table", np.arange(10, dtype=np.int64) * 10)],
        )
        image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) * 20
        token = np.array([[0, 1, 2], [3, 4, 5], [9, 9, 9]])
        golden = golden_of(
            {"image": image, "token": token},
            {"brightness": image.mean((1, 2), dtype=np.float32), "looked_up": token * 10},
        )
        inputs = tuple(TensorSpec.of(name, array) for name, array in golden.inputs.items())
        outputs = tuple(TensorSpec.of(name, array) for name, array in golden.outputs.items())
        return ModelSpec(name="mixed", inputs=inputs, outputs=outputs), self._package(folder, golden)

    def counting(self) -> tuple[ModelSpec, Package]:
        """Gives each sample back, and how many samples were computed together."""
        folder = self._folder()
        _save(
            folder / "model.onnx",
            [
                helper.make_node("Identity", ["x"], ["same"]),
                helper.make_node("Shape", ["x"], ["size"], end=1),
                helper.make_node("Expand", ["size", "size"], ["together"]),
            ],
            [("x", TensorProto.FLOAT, [1])],
            [("same", TensorProto.FLOAT, [1]), ("together", TensorProto.INT64, [])],
        )
        x = np.zeros((1, 1), np.float32)
        spec = ModelSpec(
            name="counting",
            inputs=(TensorSpec(name="x", shape=(1,)),),
            outputs=(TensorSpec(name="same", shape=(1,)), TensorSpec(name="together", shape=(), dtype="int64")),
        )
        return spec, self._package(folder, golden_of({"x": x}, {"same": x}))


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path / "packages")


@pytest.fixture(scope="session")
def home() -> TritonHome:
    return TritonHome.find()


def deploy(
    client: TritonClient,
    repository: ModelRepository,
    spec: ModelSpec,
    packages: Sequence[Package],
    choice: ServingChoice = CHOICE,
    capture: CaptureChoice | None = None,
    bake: timedelta | None = None,
    incident: str | None = None,
) -> Promotion:
    """A rollout without a stage; its journal is beside the repository."""
    journal = Journal(repository.root.parent)
    with journal.begin(spec.name, packages[-1].artifact_id, incident=incident) as rollout:
        rollout = journal.move(rollout, "validated")
        return promote(client, repository, journal, rollout, spec, packages, choice, capture, bake=bake)


class Triton:
    """The shared server: its repository, and a client that may load."""

    def __init__(self, server: TritonServer, repository: ModelRepository) -> None:
        self.server = server
        self.repository = repository
        self.journal = Journal(repository.root.parent)
        self.connect = functools.partial(TritonClient, server.http_url, server.grpc_url, token="sesame")
        self.client = self.connect()

    def serve(self, spec: ModelSpec, *packages: Package, choice: ServingChoice = CHOICE) -> None:
        numbers = tuple(self.repository.place(spec, package, choice.threads) for package in packages)
        ModelConfig(spec=spec, versions=numbers, choice=choice).save(self.repository.folder(spec.name))
        self.client.load(spec.name)


@pytest.fixture(scope="session")
def triton(home: TritonHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("workspace") / "serving"
    repository = ModelRepository(folder / "models")
    (folder / "token").write_text("sesame", encoding="utf-8")
    with TritonServer(home, repository.root, Ports.free(), folder, token="sesame") as server:
        shared = Triton(server, repository)
        yield shared
        shared.client.close()


@pytest.fixture
def new_name(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Model names that no other test uses on the shared server."""
    count = iter(range(100))
    stem = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:50]
    return lambda: f"{stem}_{next(count)}"
