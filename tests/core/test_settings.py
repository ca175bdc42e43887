from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leanloop.core.errors import SettingsError
from leanloop.core.settings import Settings, load_settings, parse_settings
from leanloop.core.workspace import with_absolute_paths
from tests.conftest import Project


def changed(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *parents, leaf = key.split(".")
    node = document
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = value
    return document


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("goal.minimize", "size", r"Unknown settings key 'goal.minimize'[\s\S]*Did you mean 'minimise'"),
        ("goal.minimise", "speed", r"'goal.minimise'[\s\S]*speed[\s\S]*latency_p50"),
        ("goal.batch_size", 0, r"'goal.batch_size'[\s\S]*greater than or equal to 1"),
        ("goal.max_size_bytes", -1, "'goal.max_size_bytes'"),
        ("goal.batch_size", 4000, r"goal.batch_size[\s\S]*max_batch_size"),
        ("model.name", "../x", "'model.name'"),
        ("model.factory", None, "factory"),
        ("model.file", "model.h5", r"file[\s\S]*.h5"),
        ("model.file", "model.onnx", "leave the factory out"),
        ("model.inputs", [], "'model.inputs'"),
        ("model.inputs", [{"name": "x", "shape": [0]}], "at least 1"),
        ("model.outputs", ["x"], "must differ"),
        ("metric", "rmse", "regression"),
        ("metric", "acuracy", "'metric'"),
        ("optimise", {}, "Did you mean 'optimize'"),
        ("targets", ["tensorflow"], "'targets.0'"),
    ],
)
def test_a_wrong_setting_names_its_key_and_what_is_allowed(
    project: Project, key: str, value: Any, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(changed(project.document, key, value), source="params.yaml")


def test_settings_travel_as_json(project: Project) -> None:
    assert Settings.from_json(project.settings.to_json()) == project.settings


@pytest.mark.parametrize(
    ("text", "message"), [("", "no mapping"), ("a: [", "not valid YAML"), (None, "cannot be read")]
)
def test_an_unreadable_file_is_told(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_settings(path)


def test_overrides_replace_nested_values(project: Project) -> None:
    import yaml

    path = project.folder / "params.yaml"
    path.write_text(yaml.safe_dump(project.document | {"metric": "accuracy"}))
    assert load_settings(path, {"goal.batch_size": 32}).goal.batch_size == 32
    with pytest.raises(SettingsError, match="plain value"):
        load_settings(path, {"metric.name": 1})


def test_no_path_stays_relative(project: Project) -> None:
    settings = with_absolute_paths(project.settings, project.folder)
    for path in (settings.workspace, settings.store.url, settings.serving.repository):
        assert Path(path).is_relative_to(project.folder)
    assert with_absolute_paths(settings, Path("/elsewhere")) == settings


def test_urls_are_left_alone(project: Project) -> None:
    project.document["store"] = {"url": "s3://bucket/leanloop"}
    assert with_absolute_paths(project.settings, project.folder).store.url == "s3://bucket/leanloop"
