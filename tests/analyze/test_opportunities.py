"""Expectations from made-up evidence."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanloop.analyze.factors import FACTORS
from leanloop.analyze.opportunities import Evidence, Kernel, opportunities
from leanloop.core.contracts import LayerSensitivity, Opportunity
from leanloop.core.settings import OptimizeSettings
from leanloop.optimize import TECHNIQUES

CONV = Kernel("Conv", share=0.9, weight_bytes=900, channels=32, reduction=288, prunable=True)
HEAD = Kernel("Gemm", share=0.05, weight_bytes=100, channels=16, reduction=64, prunable=False)
EVIDENCE = Evidence(
    batch_size=1,
    original_ms=2.0,
    fp32_ms={"onnxruntime": 1.0, "openvino": 1.6},
    blocked={},
    kernels=(CONV, HEAD),
    weight_bytes=1000,
    sensitivity=(),
    allowed_drop=0.01,
    untrainable="",
    training_samples=50_000,
    instruction_sets={"avx512_vnni", "amx_bf16"},
)


NOT_JUDGED = {
    "blending",
    "block_removal",
    "feature_distillation",
    "nncf_accuracy_aware_int8",
    "ort_accuracy_aware_int8",
    "quantisation_aware_training",
    "resume",
    "student",
}
"""Techniques of whose gain no factor was measured on other networks."""


def found(**changes: object) -> dict[str, Opportunity]:
    evidence = dataclasses.replace(EVIDENCE, **changes)  # type: ignore[arg-type]
    return {item.technique: item for item in opportunities(evidence, minimise_size=False)}


def test_every_technique_of_the_settings_is_judged() -> None:
    assert set(OptimizeSettings().techniques) <= set(found())


def test_names_are_those_of_techniques_and_a_new_one_is_judged_or_known_not_to_be() -> None:
    assert set(TECHNIQUES) - set(found()) == NOT_JUDGED
    assert set(found()) <= set(TECHNIQUES)


def test_speed_up_is_the_runtimes_times_amdahls() -> None:
    static = found(kernels=(CONV,))["ort_static_int8"]
    factor = FACTORS["ort_static_int8", "Conv"].at(1)
    assert static.expected_speedup == pytest.approx(2.0 / 1.0 / (0.1 + 0.9 / factor))
    assert static.expected_size_ratio == pytest.approx(0.1 + 0.9 / 4)


def test_dynamic_int8_never_helps_a_network_of_convolutions() -> None:
    dynamic = found()["ort_dynamic_int8"]
    assert dynamic.helps  # the head's weights shrink
    dynamic = found(kernels=(CONV,))["ort_dynamic_int8"]
    assert not dynamic.helps
    assert "ConvInteger" in dynamic.reason


def test_dynamic_int8_helps_matrix_products() -> None:
    dynamic = found(kernels=(dataclasses.replace(CONV, kind="MatMul"),))["ort_dynamic_int8"]
    assert dynamic.helps
    assert dynamic.expected_speedup > 3


def test_bf16_needs_a_cpu_that_has_it() -> None:
    assert found()["openvino_bf16"].helps
    assert not found(instruction_sets={"avx2"})["openvino_bf16"].helps


def test_fp16_needs_a_cpu_that_has_it_and_promises_bytes_alone() -> None:
    assert not found()["openvino_fp16"].helps
    half = found(instruction_sets={"avx512_fp16"})["openvino_fp16"]
    assert half.helps
    assert half.expected_speedup == pytest.approx(2.0 / 1.6)
    assert half.expected_size_ratio == pytest.approx(0.5)


def test_int8_without_vnni_is_smaller_but_not_faster() -> None:
    static = found(instruction_sets={"avx2"})["ort_static_int8"]
    assert static.expected_speedup == pytest.approx(2.0)
    assert static.expected_size_ratio < 0.5


def test_narrow_layers_gain_nothing_from_int8() -> None:
    narrow = dataclasses.replace(CONV, channels=10)
    assert not found(kernels=(narrow,))["ort_static_int8"].helps


def test_a_blocked_target_leaves_its_techniques_out() -> None:
    items = found(blocked={"openvino": "acme.Frobnicate has no conversion rule."}, fp32_ms={"onnxruntime": 1.0})
    for technique in ("nncf_int8", "openvino_bf16", "openvino_fp16"):
        assert not items[technique].helps
        assert "Frobnicate" in items[technique].reason
    assert items["channel_pruning"].helps


def test_without_training_nothing_is_pruned() -> None:
    items = found(untrainable="There is no training data.")
    for technique in ("channel_pruning", "distillation"):
        assert not items[technique].helps
        assert items[technique].reason == "There is no training data."


def test_sensitive_layers_are_a_risk_and_are_named() -> None:
    def int8(drop: float) -> Opportunity:
        return found(sensitivity=(LayerSensitivity(name="stem", treatment="int8", metric=0.9, drop=drop),))[
            "ort_static_int8"
        ]

    assert [int8(drop).risk for drop in (0.0, 0.02, 0.1)] == ["low", "medium", "high"]
    assert "stem" in int8(0.1).reason


def test_sparsity_never_helps_here() -> None:
    for technique in ("unstructured_pruning", "semi_structured_pruning"):
        assert not found()[technique].helps


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 1), st.sampled_from([1, 4, 8, 32, 500]), st.booleans())
def test_ranking_is_sorted_and_what_does_not_help_comes_last(
    onnxruntime: float, openvino: float, share: float, batch_size: int, minimise_size: bool
) -> None:
    evidence = dataclasses.replace(
        EVIDENCE,
        fp32_ms={"onnxruntime": onnxruntime, "openvino": openvino},
        kernels=(dataclasses.replace(CONV, share=share),),
        batch_size=batch_size,
    )
    ranked = opportunities(evidence, minimise_size=minimise_size)
    helps = [item.helps for item in ranked]
    assert helps == sorted(helps, reverse=True)
    useful = [item for item in ranked if item.helps]
    keys = [item.expected_size_ratio if minimise_size else -item.expected_speedup for item in useful]
    assert keys == sorted(keys)
    assert all(0 < item.expected_size_ratio <= 1 and item.expected_speedup > 0 for item in ranked)
