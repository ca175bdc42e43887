"""Revisions on the digits example after a shift: half the brightness range on top of every pixel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from leanloop.bundle import Bundle, classes_of, correct, pack
from leanloop.core.child import Child
from leanloop.core.errors import DataError, RefusedError, UnsupportedError
from leanloop.core.settings import Settings
from leanloop.optimize.revise import Fresh, revise
from tests.conftest import Project


@pytest.fixture(scope="module")
def asked(settings: Settings) -> Settings:
    document = settings.model_dump(mode="json")
    document["monitoring"]["trigger"]["fresh_labels"] = 200
    return Settings.model_validate(document)


@pytest.fixture(scope="module")
def fresh(bundle: Bundle) -> Fresh:
    test = bundle.split("test")
    assert test.targets is not None
    inputs = {"image": np.clip(test.inputs["image"] + 0.5, 0, 1)}
    return Fresh(inputs, test.targets.astype(np.float64), np.array([f"client-{number}" for number in range(len(test))]))


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """Probes all bundles, so that its imports are paid for once."""
    with Child(preload=("torch", "leanloop.bundle.probe")) as process:
        yield process


@pytest.fixture(scope="module")
def revised(
    bundle: Bundle, fresh: Fresh, asked: Settings, child: Child, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    folder = tmp_path_factory.mktemp("revised") / "bundle"
    revise(bundle, fresh, folder, aim="accuracy", settings=asked, seconds=60, threads=1, child=child)
    return Bundle(folder)


def accuracy(bundle: Bundle, judge: Bundle, part: str) -> float:
    validation, recent = judge.split("validation"), judge.fresh_rows("validation")
    rows = recent if part == "recent" else ~recent
    assert validation.targets is not None
    outputs = bundle.predict(bundle.module(), validation)["logits"]
    return float(correct(outputs, validation.targets)[rows].mean())


def test_a_revision_wins_back_what_the_shift_cost_and_forgets_nothing(bundle: Bundle, revised: Bundle) -> None:
    before, after = (accuracy(one, revised, "recent") for one in (bundle, revised))
    known = accuracy(bundle, revised, "golden")
    assert before < 0.8
    assert after - before >= 0.8 * (known - before)
    assert accuracy(revised, revised, "golden") >= known - 0.01


def test_a_revision_names_its_parent_and_is_a_bundle_of_its_own(bundle: Bundle, revised: Bundle) -> None:
    manifest = revised.manifest
    assert manifest.parent == bundle.manifest.digest != manifest.digest
    assert manifest.fresh == ("fresh-1.npz",)
    assert manifest.splits["test"] == bundle.manifest.splits["test"]
    assert manifest.splits["train"].labelled


def test_samples_of_one_request_stay_together(
    bundle: Bundle, fresh: Fresh, asked: Settings, child: Child, tmp_path: Path
) -> None:
    pairs = Fresh(fresh.inputs, fresh.labels, np.array([f"r{number // 2}" for number in range(len(fresh.labels))]))
    revise(bundle, pairs, tmp_path / "bundle", aim="agreement", settings=asked, seconds=1, threads=1, child=child)
    with np.load(tmp_path / "bundle/fresh-1.npz") as archive:
        held_out = {values.tobytes() for values in archive["validation/image"]}
        learnt = {values.tobytes() for values in archive["train/image"]}
    assert len(held_out) + len(learnt) == len(fresh.labels)
    for number in range(0, len(fresh.labels) - 1, 2):
        first, second = (fresh.inputs["image"][number + i].tobytes() in held_out for i in (0, 1))
        assert first == second


def test_random_labels_are_refused(bundle: Bundle, fresh: Fresh, asked: Settings, tmp_path: Path) -> None:
    poisoned = np.random.default_rng(0).permutation(fresh.labels)
    with pytest.raises(RefusedError, match=r"recent samples|forgets") as caught:
        revise(
            bundle,
            Fresh(fresh.inputs, poisoned, fresh.requests),
            tmp_path / "bundle",
            aim="accuracy",
            settings=asked,
            seconds=60,
            threads=1,
        )
    assert "recent after" in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_without_labels_the_weights_stay_and_the_parent_tells(
    bundle: Bundle, fresh: Fresh, asked: Settings, child: Child, tmp_path: Path
) -> None:
    unlabelled = Fresh(fresh.inputs, np.full(len(fresh.labels), np.nan), fresh.requests)
    revise(bundle, unlabelled, tmp_path / "bundle", aim="agreement", settings=asked, seconds=1, threads=1, child=child)
    found = Bundle(tmp_path / "bundle")
    for mine, its in zip(bundle.module().parameters(), found.module().parameters(), strict=True):
        assert torch.equal(mine, its)
    train, rows = found.split("train"), found.fresh_rows("train")
    assert train.targets is not None
    answers = classes_of(bundle.predict(bundle.module(), train.take(rows))["logits"])
    np.testing.assert_array_equal(train.targets[rows], answers)
    assert found.fresh_rows("calibration").mean() == 0.5


def test_too_few_labels_are_said(bundle: Bundle, fresh: Fresh, asked: Settings, tmp_path: Path) -> None:
    few = np.where(np.arange(len(fresh.labels)) < 199, fresh.labels, np.nan)
    with pytest.raises(DataError, match="too few fresh labels"):
        revise(
            bundle,
            Fresh(fresh.inputs, few, fresh.requests),
            tmp_path / "bundle",
            aim="accuracy",
            settings=asked,
            seconds=1,
            threads=1,
        )


def test_a_revision_of_a_revision_keeps_the_older_samples(
    revised: Bundle, fresh: Fresh, asked: Settings, child: Child, tmp_path: Path
) -> None:
    revise(revised, fresh, tmp_path / "bundle", aim="agreement", settings=asked, seconds=1, threads=1, child=child)
    manifest = Bundle(tmp_path / "bundle").manifest
    assert manifest.fresh == ("fresh-1.npz", "fresh-2.npz")
    assert manifest.parent == revised.manifest.digest


def test_an_onnx_model_keeps_its_weights(project: Project, child: Child, tmp_path: Path) -> None:
    project.use_onnx()
    settings = project.settings
    pack(settings, project.folder, tmp_path / "parent")
    parent = Bundle(tmp_path / "parent")
    rng = np.random.default_rng(0)
    fresh = Fresh({"x": rng.normal(size=(600, 6)).astype(np.float32)}, np.zeros(600), np.arange(600).astype(str))
    revise(parent, fresh, tmp_path / "bundle", aim="accuracy", settings=settings, seconds=1, threads=1, child=child)
    found = Bundle(tmp_path / "bundle")
    assert found.weights.read_bytes() == parent.weights.read_bytes()
    assert found.split("validation").targets is not None


def test_a_metric_without_labels_learns_from_none(project: Project, tmp_path: Path) -> None:
    project.document["metric"] = "agreement"
    pack(project.settings, project.folder, tmp_path / "parent")
    fresh = Fresh({"x": np.zeros((600, 6), np.float32)}, np.zeros(600), np.arange(600).astype(str))
    with pytest.raises(UnsupportedError, match="does not look at labels"):
        revise(
            Bundle(tmp_path / "parent"),
            fresh,
            tmp_path / "bundle",
            aim="accuracy",
            settings=project.settings,
            seconds=1,
            threads=1,
        )
