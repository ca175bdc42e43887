"""The whole benchmark on a small real model in three runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leanloop.benchmark import benchmark_variants, metric_interval, peak_memory
from leanloop.benchmark.accuracy import per_class_accuracy
from leanloop.bundle import Bundle
from leanloop.convert import onnx_model_files
from leanloop.core.child import Child
from leanloop.core.contracts import Artifact, Artifacts, Benchmark
from leanloop.core.errors import LeanloopError
from leanloop.core.events import EVENTS_VARIABLE, read_events
from leanloop.core.settings import Settings, parse_settings
from tests.mixed_model import MixedProject


@pytest.fixture(scope="module")
def benchmarked(
    mixed: Bundle, mixed_baselines: tuple[list[Artifact], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Benchmark, Path, Settings]:
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "project").mkdir()
    settings = parse_settings(MixedProject(folder / "project").document, source="test")
    found, files = mixed_baselines
    artifacts = Artifacts(
        bundle_digest=mixed.manifest.digest, artifacts=tuple(found), rejected={}, left_out={}, trials=()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(EVENTS_VARIABLE, str(folder / "events.jsonl"))
        benchmark = benchmark_variants(mixed, artifacts, files, settings, folder / "out")
    return benchmark, folder, settings


def test_every_variant_is_measured_in_every_respect(
    benchmarked: tuple[Benchmark, Path, Settings], mixed: Bundle, mixed_baselines: tuple[list[Artifact], Path]
) -> None:
    benchmark, folder, settings = benchmarked
    assert Benchmark.load(folder / "out") == benchmark
    assert len(benchmark.variants) == 3
    for variant in benchmark.variants:
        assert [measurement.batch_size for measurement in variant.latency] == list(settings.measured_batch_sizes)
        assert variant.at(8).p50_ms.low <= variant.at(8).p50_ms.value <= variant.at(8).p50_ms.high
        assert 0 < variant.peak_memory_bytes < 1 << 30
        assert variant.size_bytes == sum(file.stat().st_size for file in (mixed_baselines[1] / variant.id).iterdir())
        assert len(variant.per_class) == 3
    assert benchmark.original_size_bytes == mixed.manifest.weights_bytes
    assert benchmark.hardware["isa"] is not None


def test_predictions_of_every_variant_are_kept_for_paired_tests(
    benchmarked: tuple[Benchmark, Path, Settings], mixed: Bundle
) -> None:
    benchmark, folder, settings = benchmarked
    validation = mixed.split("validation")
    assert validation.targets is not None
    for variant in benchmark.variants:
        with np.load(folder / "out" / "predictions" / f"{variant.id}.npz", allow_pickle=False) as archive:
            outputs = {name: archive[name] for name in archive.files}
        assert list(outputs) == ["logits", "score"]
        assert mixed.score(outputs, validation) == variant.metric
        again = metric_interval(mixed.metric, outputs["logits"], validation.targets, settings.benchmark.confidence)
        assert variant.metric_interval == again


def test_progress_reaches_its_total(benchmarked: tuple[Benchmark, Path, Settings]) -> None:
    _, folder, settings = benchmarked
    events, _ = read_events(folder / "events.jsonl")
    measuring = [event for event in events if event["what"].startswith(("measuring at", "warming up"))]
    done = [event["done"] for event in measuring]
    assert done == sorted(done)
    assert done[-1] == measuring[-1]["total"] == len(settings.measured_batch_sizes) * (settings.benchmark.blocks + 1)


def test_memory_of_a_larger_model_is_larger_and_a_broken_one_is_told(
    mixed: Bundle, mixed_onnx: Path, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    added = 64 << 20
    large = onnx.load(mixed_onnx)
    large.graph.initializer.append(numpy_helper.from_array(np.ones((added // 4, 1), np.float32), "extra"))
    large.graph.node.append(onnx.helper.make_node("MatMul", ["score", "row"], ["unused"]))
    large.graph.initializer.append(numpy_helper.from_array(np.ones((1, added // 4), np.float32), "row"))
    large.graph.node.append(onnx.helper.make_node("MatMul", ["unused", "extra"], ["sum"]))
    large.graph.output.append(onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, ["batch", 1]))
    (tmp_path / "large").mkdir()
    onnx.save(large, tmp_path / "large" / "model.onnx")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "model.onnx").write_bytes(mixed_onnx.read_bytes())
    models = {name: onnx_model_files(tmp_path / name / "model.onnx", "fp32") for name in ("small", "large")}
    with Child() as child:
        found = peak_memory(models, tmp_path, bundle=mixed, threads=1, batch_size=1, child=child)
    assert found["large"] - found["small"] > 2 * added
    (tmp_path / "small" / "model.onnx").write_bytes(b"broken")
    with Child() as child, pytest.raises(LeanloopError, match="cannot be loaded"):
        peak_memory({"small": models["small"]}, tmp_path, bundle=mixed, threads=1, batch_size=1, child=child)


def test_per_class_accuracy() -> None:
    outputs = np.eye(4)[[0, 0, 1, 2]]
    assert per_class_accuracy(outputs, np.array([0, 1, 1, 2])) == (1.0, 0.5, 1.0, 1.0)
