from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leanloop.core.contracts import CallPlan
from leanloop.core.errors import LeanloopError, ServingError
from leanloop.serving import CaptureChoice, ModelConfig, ModelRepository
from tests.serving.conftest import CHOICE, linear_spec

SPEC = linear_spec("m")


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "models")


def test_versions_count_up_and_a_known_package_keeps_its_number(repository, models):
    first, second = models.linear(1.0), models.linear(2.0)
    assert [repository.place(SPEC, package, 1) for package in (first, second, first, second)] == [1, 2, 1, 2]
    assert repository.place(SPEC, first, 2) == 3, "other threads are another version"
    assert repository.versions("m") == (1, 2, 3)
    assert repository.runtime("m", 2)["artifact_id"] == second.artifact_id
    assert repository.digest("m", 1) != repository.digest("m", 3)


def test_call_plans_travel_with_the_files_for_the_sizes_that_are_prepared(repository, models):
    package = models.linear(1.0, "openvino")
    plans = {1: CallPlan(threads=1), 2: CallPlan(threads=2, streams=2)}
    planned = replace(package, files=package.files.model_copy(update={"plans": plans}), batch_sizes=(1,))
    assert [repository.place(SPEC, one, 2) for one in (package, planned, package, planned)] == [1, 2, 1, 2]
    assert "plans" not in repository.runtime("m", 1)
    assert repository.package("m", 1, package.golden).files.plans == {}
    assert repository.package("m", 2, package.golden).files.plans == {1: CallPlan(threads=1)}


def test_a_number_is_never_used_twice(repository, models):
    repository.write_version(SPEC, 4, models.linear(1.0), 1)
    for version in (4, 3):
        with pytest.raises(ServingError, match="once only"):
            repository.write_version(SPEC, version, models.linear(2.0), 1)
    assert repository.versions("m") == (4,)


def test_a_version_is_whole_or_absent(repository, models):
    package = models.linear(1.0)
    files = package.files.model_copy(update={"files": ("model.onnx", "gone.data")})
    with pytest.raises(FileNotFoundError):
        repository.place(SPEC, replace(package, files=files), 1)
    assert repository.versions("m") == ()
    assert list(repository.folder("m").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_files_stay_inside(repository, models, name):
    package = models.linear(1.0)
    files = package.files.model_copy(update={"files": (name,)})
    with pytest.raises(LeanloopError, match="leads out"):
        repository.place(SPEC, replace(package, files=files), 1)


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "m\n"])
def test_model_names_are_checked(repository, name):
    with pytest.raises(LeanloopError, match="model name"):
        repository.folder(name)


def test_torch_models_are_not_served(repository, models):
    package = models.linear(1.0)
    files = package.files.model_copy(update={"runtime": "pytorch"})
    with pytest.raises(ServingError, match="onnxruntime and openvino"):
        repository.place(SPEC, replace(package, files=files), 1)


def test_models_of_another_place_capture_into_this_one(repository, tmp_path):
    there, here = tmp_path / "gone" / "capture", tmp_path / "capture"
    for name, folder in (("moved", there), ("right", here), ("none", None)):
        capture = None if folder is None else CaptureChoice(folder=str(folder), rate=0.5, quota_bytes=7)
        ModelConfig(spec=linear_spec(name), versions=(1, 2), choice=CHOICE, capture=capture).save(
            repository.folder(name)
        )
    before = {name: repository.served(name) for name in ("moved", "right", "none")}
    damaged = repository.folder("damaged") / "config.pbtxt"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert repository.capture_into(here) == {"moved": str(there)}
    after = repository.served("moved")
    assert after.capture == CaptureChoice(folder=str(here), rate=0.5, quota_bytes=7)
    assert after.model_copy(update={"capture": None}) == before["moved"].model_copy(update={"capture": None})
    assert {name: repository.served(name) for name in ("right", "none")} == {
        name: before[name] for name in ("right", "none")
    }
    assert damaged.read_text() == "{"
    assert repository.capture_into(here) == {}
    assert not there.exists()
