"""The whole step, for each kind of bundle."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from leanloop.analyze import analyze, render
from leanloop.bundle import Bundle, pack
from leanloop.core.contracts import Analysis
from leanloop.core.events import EVENTS_VARIABLE, read_events
from leanloop.core.settings import Settings
from tests.conftest import Project
from tests.mixed_model import MixedProject


def check(analysis: Analysis, folder: Path) -> None:
    analysis.save(folder)
    assert Analysis.load(folder) == analysis
    assert sum(layer.time_ms for layer in analysis.layers) == pytest.approx(analysis.latency_ms)
    assert sum(layer.macs for layer in analysis.layers) == analysis.macs > 0
    assert sum(layer.parameters for layer in analysis.layers) == analysis.parameters > 0
    assert len({layer.name for layer in analysis.layers}) == len(analysis.layers)
    output = io.StringIO()
    Console(file=output, width=160).print(render(analysis))
    for shown in (*(layer.name for layer in analysis.layers), *(item.technique for item in analysis.opportunities)):
        assert shown in output.getvalue()


def test_a_module_with_three_inputs_and_two_outputs(
    mixed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    settings = MixedProject(tmp_path / "project").settings
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_VARIABLE, str(events))
    analysis = analyze(mixed, settings)
    check(analysis, tmp_path)
    layers = {layer.name: layer for layer in analysis.layers}
    assert {"conv", "norm", "words", "head", "score"} < set(layers)
    assert (layers["conv"].macs, layers["conv"].time_ms > 0) == (8 * 36 * 9, True)
    assert {found.name for found in analysis.sensitivity} == {"conv", "head", "score"}
    assert {found.name for found in analysis.sensitivity if found.treatment == "prune_50"} == {"conv"}
    told = [event["done"] for event in read_events(events)[0] if event["kind"] == "progress"]
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 100)


def test_an_onnx_file_without_training_data_cannot_be_pruned(uneven: tuple[Bundle, Settings], tmp_path: Path) -> None:
    bundle, settings = uneven
    analysis = analyze(bundle, settings)
    check(analysis, tmp_path)
    assert analysis.metric == 1.0
    assert analysis.macs == 8 * 16 + 16 * 8 + 8 * 8
    opportunities = {item.technique: item for item in analysis.opportunities}
    for technique in ("channel_pruning", "distillation"):
        assert not opportunities[technique].helps
        assert "post-training techniques only" in opportunities[technique].reason
    assert {found.target for found in analysis.coverage if found.supported} == set(settings.targets)


def test_a_pt2_file_keeps_its_modules_names_and_agreement_needs_no_labels(project: Project, tmp_path: Path) -> None:
    project.use_pt2()
    project.document |= {"metric": "agreement", "targets": ["onnxruntime"], "goal": {"batch_size": 4}}
    pack(project.settings, project.folder, tmp_path / "bundle")
    analysis = analyze(Bundle(tmp_path / "bundle"), project.settings)
    check(analysis, tmp_path)
    layers = {layer.name: layer for layer in analysis.layers}
    assert (layers["hidden"].macs, layers["hidden"].parameters) == (6 * 16, 6 * 16 + 16)
    assert (layers["head"].macs, layers["head"].parameters) == (16 * 3, 16 * 3 + 3)
    assert (analysis.metric, analysis.metric_name, analysis.batch_size) == (1.0, "agreement", 4)
    assert all(found.metric <= 1.0 for found in analysis.sensitivity)
    openvino = {item.technique: item for item in analysis.opportunities}["nncf_int8"]
    assert openvino.reason == "openvino is not among the settings' targets."
