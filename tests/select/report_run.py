"""What a report is made of: a run like the Fashion-MNIST example's, with constructed numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from leanloop.core.contracts import (
    Analysis,
    Artifact,
    Artifacts,
    Benchmark,
    BundleManifest,
    LayerCost,
    LayerSensitivity,
    ModelFiles,
    OperatorCoverage,
    Opportunity,
    Parity,
    RecipeRecord,
    Release,
    ServedMeasurement,
    ServingChoice,
    SplitSummary,
    TrialRow,
)
from leanloop.core.settings import GoalSettings, InputSpec
from leanloop.select import decide
from tests.select.cases import Case, Spec

FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def recipe(target: str, **techniques: dict[str, Any]) -> RecipeRecord:
    """A recipe from its techniques and their parameters."""
    return RecipeRecord(
        target=target,
        techniques=tuple({"technique": name, "version": 1, **values} for name, values in techniques.items()),
    )


RECIPES = {
    "9f31c2d47a60": recipe(
        "openvino", channel_pruning={"ratio": 0.5}, distillation={"epochs": 6}, nncf_int8={"preset": "mixed"}
    ),
    "4be07d1193ac": recipe(
        "openvino", channel_pruning={"ratio": 0.375}, distillation={"epochs": 6}, nncf_int8={"preset": "mixed"}
    ),
    "c05a88e6f112": recipe(
        "onnxruntime", channel_pruning={"ratio": 0.5}, distillation={"epochs": 6}, ort_static_int8={"per_channel": True}
    ),
    "77d2f0b94e31": recipe("openvino", nncf_int8={"preset": "performance"}),
    "e6a1905bd7c8": recipe(
        "openvino", channel_pruning={"ratio": 0.75}, distillation={"epochs": 6}, nncf_int8={"preset": "mixed"}
    ),
}


@cache
def make_run(name: str = "fashion-cnn", classes: tuple[str, ...] = FASHION, **goal: Any) -> dict[str, Any]:
    """What `render_report` takes, of a run like the example's; ``release`` included."""
    baselines = (
        Spec(
            "original-pytorch-fp32",
            2.61,
            1_252_000,
            range(290),
            True,
            "pytorch",
            "fp32",
            61_000_000,
            0.02,
            "original @ pytorch fp32",
        ),
        Spec(
            "original-onnxruntime-fp32",
            0.94,
            1_259_000,
            range(290),
            True,
            "onnxruntime",
            "fp32",
            24_000_000,
            0.012,
            "original @ onnxruntime fp32",
        ),
        Spec(
            "original-openvino-fp32",
            0.77,
            1_281_000,
            range(290),
            True,
            "openvino",
            "fp32",
            29_000_000,
            0.015,
            "original @ openvino fp32",
        ),
    )
    measured = {
        "9f31c2d47a60": (0.198, 118_000, range(10, 308)),
        "4be07d1193ac": (0.241, 171_000, range(6, 294)),
        "c05a88e6f112": (0.312, 104_000, range(8, 306)),
        "77d2f0b94e31": (0.335, 372_000, range(4, 292)),
        "e6a1905bd7c8": (0.151, 61_000, range(380)),
    }
    specs = tuple(
        Spec(
            key,
            latency,
            size_bytes,
            wrong,
            runtime=RECIPES[key].target,
            memory_bytes=9_000_000 + 20 * size_bytes,
            noise=0.02,
            label=RECIPES[key].describe(),
        )
        for key, (latency, size_bytes, wrong) in measured.items()
    )
    case = Case(specs, 4000, baselines, classes)
    benchmark, settings = case.benchmark(), GoalSettings(**goal)
    verdict = decide(benchmark, case.evidence(), settings, 0.95)
    if verdict.winner:
        verdict = verdict.model_copy(
            update={"test_metric": {"original": 0.9287, "winner": 0.9251}, "test_samples": 10_000}
        )
    return {
        "manifest": _manifest(name, classes),
        "analysis": _analysis(),
        "artifacts": _artifacts(benchmark),
        "benchmark": benchmark,
        "verdict": verdict,
        "release": _release(name),
    }


def _manifest(name: str, classes: tuple[str, ...]) -> BundleManifest:
    # Not validated: a report must escape whatever stands in a name.
    return BundleManifest.model_construct(
        name=name,
        kind="factory",
        weights="model.safetensors",
        factory="model:residual_cnn",
        data_source="data:load",
        metric="accuracy",
        task="classification",
        classes=classes,
        inputs=(InputSpec(name="image", shape=(1, 28, 28)),),
        outputs=("logits",),
        trust=False,
        files=(),
        max_samples={},
        splits={"test": SplitSummary(samples=10_000, labelled=True)},
        weights_bytes=1_250_000,
        digest="b" * 64,
    )


def _analysis() -> Analysis:
    kinds = ("Conv2d", "BatchNorm2d", "ReLU")
    generator = np.random.default_rng(3)
    layers = [
        LayerCost(
            name=f"stages.{row // 6}.{kinds[row % 3].lower()}{row % 6}",
            kind=kinds[row % 3],
            parameters=36_864 if row % 3 == 0 else 128,
            macs=7_225_344 if row % 3 == 0 else 0,
            weight_bytes=147_456,
            activation_bytes=50_176,
            time_ms=float(generator.uniform(0.15, 0.4) if row % 3 == 0 else generator.uniform(0.01, 0.05)),
            output_shape=(64, 14, 14),
        )
        for row in range(18)
    ]
    return Analysis(
        bundle_digest="b" * 64,
        parameters=308_394,
        macs=31_900_000,
        weight_bytes=1_233_576,
        activation_bytes=401_408,
        batch_size=1,
        latency_ms=2.61,
        metric_name="accuracy",
        metric=0.9275,
        layers=tuple(layers),
        sensitivity=tuple(
            LayerSensitivity(name=layer.name, treatment=treatment, metric=0.9, drop=drop)
            for layer in layers
            if layer.kind == "Conv2d"
            for treatment, drop in (
                ("prune_50", float(generator.uniform(0.002, 0.09))),
                ("int8", float(generator.uniform(-0.0005, 0.002))),
            )
        ),
        coverage=(
            OperatorCoverage(
                target="onnxruntime",
                supported=True,
                operators=29,
                quantisable=14,
                unsupported=(),
                note="all operators have INT8 kernels",
            ),
            OperatorCoverage(
                target="openvino",
                supported=True,
                operators=29,
                quantisable=14,
                unsupported=(),
                note="AMX: bf16 and INT8 in hardware",
            ),
        ),
        opportunities=(
            Opportunity(
                technique="nncf_int8",
                helps=True,
                expected_speedup=2.4,
                expected_size_ratio=0.29,
                risk="low",
                reason="94 % of the time is in convolutions, and the CPU has AMX INT8.",
            ),
            Opportunity(
                technique="channel_pruning",
                helps=True,
                expected_speedup=3.1,
                expected_size_ratio=0.3,
                risk="medium",
                reason="The last stage holds 72 % of the weights and is the least sensitive.",
            ),
            Opportunity(
                technique="ort_dynamic_int8",
                helps=False,
                expected_speedup=1.0,
                expected_size_ratio=1.0,
                risk="low",
                reason="It quantises matrix products only; convolutions are 94 % of the time.",
            ),
        ),
        hardware_id="0123456789abcdef",
    )


def _artifacts(benchmark: Benchmark) -> Artifacts:
    parity = Parity(
        samples=512,
        batch_sizes=(1, 2, 7),
        max_abs_error=0.41,
        cosine=0.99871,
        top1_agreement=0.988,
        passed=True,
        limits={"cosine": 0.98},
    )
    trials = [
        TrialRow(
            trial=number,
            recipe=RECIPES[key],
            candidate_id=key,
            state="complete",
            rung="full",
            latency_ms=0.2 + 0.03 * number,
            metric=0.92,
            size_bytes=118_000,
            seconds=24.5 - number,
            reason="",
            slack=0.004 - 0.002 * number,
        )
        for number, key in enumerate(RECIPES)
    ]
    trials += [
        TrialRow(
            trial=5,
            recipe=recipe("onnxruntime", ort_dynamic_int8={}),
            candidate_id="d1",
            state="pruned",
            rung="latency",
            latency_ms=1.42,
            metric=None,
            size_bytes=402_000,
            seconds=1.8,
            reason="slower untrained than a finished trial of the same accuracy",
        ),
        TrialRow(
            trial=6,
            recipe=recipe("openvino", openvino_bf16={}),
            candidate_id="d2",
            state="failed",
            rung="short",
            latency_ms=None,
            metric=None,
            size_bytes=None,
            seconds=3.1,
            reason="the child process ran out of time",
        ),
    ]
    return Artifacts(
        bundle_digest="b" * 64,
        artifacts=tuple(
            Artifact(
                id=variant.id,
                baseline=variant.baseline,
                recipe=RECIPES.get(variant.id),
                parity=parity,
                model=ModelFiles(
                    runtime=variant.runtime,
                    precision=variant.precision,
                    main="model",
                    files=("model",),
                    size_bytes=variant.size_bytes,
                ),
            )
            for variant in benchmark.variants
        ),
        rejected={"a90c44": "top-1 agreement 0.61 is below 0.9 after conversion"},
        left_out={"ort_dynamic_int8": "the model has no matrix product that is worth it"},
        trials=tuple(trials),
    )


def _release(name: str) -> Release:
    loads = ((1, 1, 3.4, 0.61), (1, 8, 11.2, 2.9), (32, 1, 71.0, 12.4))
    served = [
        ServedMeasurement(
            version=version,
            batch_size=batch_size,
            concurrency=clients,
            p50_ms=ms,
            p99_ms=1.6 * ms,
            throughput=1000 * batch_size * clients / ms,
            requests=2000,
        )
        for batch_size, clients, *both in loads
        for version, ms in enumerate(both, 1)
    ]
    return Release.model_construct(
        model=name,
        version=2,
        artifact_id="9f31c2d47a60",
        artifact_digest="c" * 64,
        bundle_digest="b" * 64,
        recipe=RECIPES["9f31c2d47a60"],
        runtime="openvino",
        precision="int8",
        versions={"1": "original-onnxruntime-fp32", "2": "9f31c2d47a60"},
        choice=ServingChoice(instances=2, threads=1, max_batch_size=64, queue_delay_us=500),
        served=tuple(served),
        golden_queries=64,
        http_url="127.0.0.1:8000",
        grpc_url="127.0.0.1:8001",
        hardware_id="0123456789abcdef",
        code_version="0.1.0",
        created="2026-11-22T03:30:00Z",
        note="",
    )
