"""Layers that quantising hurts too much are given back to float, and no more than are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from leanloop.bundle import Bundle
from leanloop.core.errors import TrialError
from leanloop.core.settings import GoalSettings, Settings, parse_settings
from leanloop.optimize import Findings, Workshop
from leanloop.optimize.space import make_space
from leanloop.optimize.techniques import nncf_accuracy_aware_int8 as nncf_aware
from leanloop.optimize.techniques import nncf_int8, ort_static_int8
from leanloop.optimize.techniques import ort_accuracy_aware_int8 as aware
from leanloop.optimize.techniques.findings import drops_to_try
from leanloop.optimize.techniques.ort_accuracy_aware_int8 import OrtAccuracyAwareInt8Config, fewest, quantise
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config, integer_share
from leanloop.runtime import answers_of


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_fewest_are_found_with_few_questions(most: int, needed: int) -> None:
    asked: list[int] = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count >= needed

    assert fewest(most, holds) == (needed if needed < most else None)
    assert len(asked) <= np.ceil(np.log2(most)) + 1
    assert 0 not in asked


@pytest.mark.parametrize("technique", [aware, nncf_aware])
@pytest.mark.parametrize(
    ("allowed", "tried"),
    [
        (0.02, [0.02, 0.002, 0.0005]),
        (0.002, [0.002, 0.0005]),
        (0.001, [0.001, 0.0005]),
        (0.0001, [0.0001]),
        (0.0, [0.0]),
        (2.0, [0.99, 0.002, 0.0005]),
    ],
)
def test_the_goals_own_drop_is_tried_first(
    technique: Any, allowed: float, tried: list[float], bundle: Bundle, settings: Settings
) -> None:
    kind = aware.OrtAccuracyAwareInt8Config if technique is aware else nncf_aware.NncfAccuracyAwareInt8Config
    found = technique.by_goal(bundle, 5.0, Findings(GoalSettings(max_accuracy_drop=allowed)))
    assert found == [kind(max_drop=drop) for drop in tried]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_search_asks_for_the_goals_drop(target: str, bundle: Bundle, settings: Settings) -> None:
    document = settings.model_dump(mode="json")
    document["optimize"]["techniques"] = ["ort_accuracy_aware_int8", "nncf_accuracy_aware_int8"]
    document["goal"]["max_accuracy_drop"] = 0.03
    space = make_space(bundle, parse_settings(document, source="test"))
    (finish,) = (one for one in space.finishes if one.target == target and one.configs[0] is not None)
    assert [config.max_drop for config in finish.configs] == [0.03, 0.002, 0.0005]  # type: ignore[union-attr]


@given(st.floats(0, 5), st.lists(st.floats(0, 0.9)))
def test_no_drop_is_tried_twice_or_above_the_goal(allowed: float, usual: list[float]) -> None:
    first, *stricter = drops_to_try(Findings(GoalSettings(max_accuracy_drop=allowed)), usual)
    assert first == min(allowed, 0.99)
    assert all(drop < first for drop in stricter)


def test_nothing_is_given_back_where_all_holds(workshop: Workshop, onnx: Path, tmp_path: Path) -> None:
    quantise(onnx, tmp_path, OrtAccuracyAwareInt8Config(max_drop=0.05), workshop)
    assert integer_share(tmp_path / "model.onnx") == 1.0


def test_the_layers_that_quantising_breaks_come_back_and_no_others(
    workshop: Workshop, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled, broken = _spoiled(onnx, tmp_path)
    events: list[dict[str, object]] = []
    monkeypatch.setattr(aware, "emit", lambda _kind, **fields: events.append(fields))
    config = OrtAccuracyAwareInt8Config(per_channel=False, max_drop=0.01)
    model = quantise(spoiled, tmp_path / "files", config, workshop)
    assert set(broken) == set(events[-1]["left_in_float"])  # type: ignore[call-overload]
    assert 0 < integer_share(tmp_path / "files/model.onnx") < 1
    bundle, validation = workshop.bundle, workshop.bundle.split("validation")
    answers = answers_of(model, tmp_path / "files", validation, threads=1)
    assert bundle.score(answers, validation) > 0.95
    # Without giving any back, quantising ruins this file.
    plain = tmp_path / "plain"
    plain.mkdir()
    ruined = ort_static_int8.quantise(spoiled, plain, OrtStaticInt8Config(per_channel=False), workshop)
    assert bundle.score(answers_of(ruined, plain, validation, threads=1), validation) < 0.9


@pytest.mark.parametrize("max_drop", [0.5, 0.03, 0.0])
def test_nncf_gives_back_what_the_metric_needs(workshop: Workshop, onnx: Path, tmp_path: Path, max_drop: float) -> None:
    spoiled, _ = _spoiled(onnx, tmp_path, factor=160)
    bundle, calibration = workshop.bundle, workshop.bundle.split("calibration")
    float_score = bundle.score(bundle.predict(bundle.module(), calibration), calibration)
    plain, aware_files = tmp_path / "plain", tmp_path / "aware"
    nncf_int8.quantise(spoiled, plain, nncf_int8.NncfInt8Config(bias_correction="fast"), workshop)
    config = nncf_aware.NncfAccuracyAwareInt8Config(bias_correction="fast", max_drop=max_drop)
    try:
        model = nncf_aware.quantise(spoiled, aware_files, config, workshop)
    except TrialError as error:
        assert "Nothing can be quantised" in str(error)  # noqa: PT017 - which of the two depends on the processor
        assert max_drop < 0.5
        assert not aware_files.exists()
        return
    score = bundle.score(answers_of(model, aware_files, calibration, threads=1), calibration)
    assert score >= (1 - max_drop) * float_score - 0.005
    assert sorted(path.name for path in aware_files.iterdir()) == ["model.bin", "model.xml"]
    assert 0 < _quantisers(aware_files) <= _quantisers(plain)
    if max_drop == 0.5:
        assert _quantisers(aware_files) == _quantisers(plain)


def _quantisers(folder: Path) -> int:
    """FakeQuantize operators of an IR; none where there is none."""
    graph = folder / "model.xml"
    return graph.read_text().count('type="FakeQuantize"') if graph.exists() else 0


def _spoiled(onnx: Path, folder: Path, factor: float = 1e3) -> tuple[Path, list[str]]:
    """The same function, with a hidden channel a thousand times the others: one scale per tensor leaves these nothing.

    Returns:
        The file, and the names of the two layers that write and read that channel.
    """
    folded = folder / "spoiled.onnx"
    quant_pre_process(str(onnx), str(folded))
    model = onnx_format.load(folded)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = {node.input[1]: node for node in model.graph.node if node.op_type == "Conv"}
    shapes = {name: tuple(weights[name].dims) for name in convolutions}
    writer, reader = (
        next(node for name, node in convolutions.items() if shapes[name] == shape)
        for shape in ((64, 32, 3, 3), (64, 64, 3, 3))
    )
    for name, place, times in (
        (writer.input[1], np.s_[:1], factor),
        (writer.input[2], np.s_[:1], factor),
        (reader.input[1], np.s_[:, :1], 1 / factor),
    ):
        values = numpy_helper.to_array(weights[name]).copy()
        values[place] *= times
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    onnx_format.save(model, folded)
    return folded, [writer.name, reader.name]


def test_where_every_layer_hurts_it_says_so(
    workshop: Workshop, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aware._Answers, "__call__", lambda self, left, split: -self.float_model(split))
    with pytest.raises(TrialError, match="No layer can be quantised"):
        quantise(onnx, tmp_path, OrtAccuracyAwareInt8Config(), workshop)
