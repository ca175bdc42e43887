"""What ran in a variant: read from the runtimes, put into one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from leanloop.benchmark.execution import execution, explain
from leanloop.benchmark.latency import batch_of
from leanloop.bundle import Bundle
from leanloop.convert import TARGETS
from leanloop.core.contracts import ModelFiles
from leanloop.optimize import Workshop
from leanloop.optimize.techniques.nncf_int8 import NncfInt8Config, quantise
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config
from leanloop.optimize.techniques.ort_static_int8 import quantise as quantise_ort
from leanloop.runtime.profile import Kernel


def kernel(role: str = "compute", milliseconds: float = 1.0, precision: str = "int8", name: str = "conv") -> Kernel:
    return Kernel(name, "Convolution", "brgconv_avx512_I8", precision, role, milliseconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernels", "precision", "latency", "told"),
    [
        (
            [kernel(), kernel(precision="fp32", name="head")],
            "int8",
            2.0,
            "1 of 2 heavy operators do not run in INT8: head (fp32).",
        ),
        ([kernel(milliseconds=0.1)], "int8", 1.0, "Its kernels take 0.1 of 1 ms"),
        ([kernel(milliseconds=3.0), kernel("conversion", precision="")], "int8", 4.0, "25% of its kernels' time only"),
        (
            [kernel(milliseconds=9.0, name="a"), kernel(milliseconds=1.0)],
            "int8",
            10.0,
            "90% of its kernels' time is one",
        ),
        ([kernel(precision="fp32")], "fp32", 1.0, "100% of its kernels' time is one, conv (brgconv_avx512_I8)."),
    ],
)
def test_the_first_thing_that_holds_it_back_is_told(
    kernels: list[Kernel], precision: str, latency: float, told: str
) -> None:
    found = explain(kernels, precision, latency)
    assert found.why_not_faster.startswith(told)
    assert found.operators == sum(one.role == "compute" for one in kernels)


def test_many_operators_are_counted_and_three_named() -> None:
    found = explain([kernel(precision="fp32", name=f"n{number}") for number in range(5)], "int8", 5.0)
    assert found.why_not_faster.endswith("n0 (fp32), n1 (fp32), n2 (fp32) and 2 more.")


def test_nothing_that_ran_is_no_division() -> None:
    assert explain([], "fp32", 1.0).conversion_share == 0.0


@pytest.fixture(scope="module")
def made(
    workshop: Workshop, onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[ModelFiles, Path]]:
    root = tmp_path_factory.mktemp("made")
    for name in "abcd":
        (root / name).mkdir()
    return {
        "onnxruntime fp32": (TARGETS["onnxruntime"].convert(onnx, root / "a", "fp32"), root / "a"),
        "openvino fp32": (TARGETS["openvino"].convert(onnx, root / "b", "fp32"), root / "b"),
        "onnxruntime int8": (quantise_ort(onnx, root / "c", OrtStaticInt8Config(), workshop), root / "c"),
        "openvino int8": (quantise(onnx, root / "d", NncfInt8Config(), workshop), root / "d"),
    }


@pytest.mark.parametrize("name", ["onnxruntime fp32", "openvino fp32", "onnxruntime int8", "openvino int8"])
def test_the_runtimes_tell(name: str, made: dict[str, tuple[ModelFiles, Path]], bundle: Bundle) -> None:
    model, folder = made[name]
    found = execution(model, folder, batch_of(bundle.samples, 32), threads=1, latency_ms=1.0)
    assert found is not None
    # The network of the example: a stem, two residual blocks' convolutions and shortcuts, and a linear head.
    assert 4 <= found.operators <= 12
    assert found.int8_operators == 0 if model.precision == "fp32" else found.int8_operators >= found.operators - 1
    assert 0 <= found.conversion_share < 1
    assert found.kernel_ms > 0
    assert sum(one.share for one in found.slowest) == pytest.approx(1.0, abs=0.3)
    assert found.implementations
    assert found.why_not_faster.endswith(".")


def test_a_runtime_that_does_not_tell_gives_nothing(bundle: Bundle, tmp_path: Path) -> None:
    eager = ModelFiles(runtime="pytorch", precision="fp32", main="w", files=("w",), size_bytes=1)
    assert execution(eager, tmp_path, bundle.samples, threads=1, latency_ms=1.0) is None
