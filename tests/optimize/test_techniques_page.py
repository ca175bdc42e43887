"""The page on techniques: a row for each, and an example that works as it stands."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from leanloop.bundle import Bundle
from leanloop.core.contracts import Candidates, RecipeRecord
from leanloop.core.errors import SettingsError
from leanloop.core.settings import Settings, parse_settings
from leanloop.optimize import TECHNIQUES, Recipe, Workshop
from leanloop.optimize.apply import make_prefix
from leanloop.optimize.techniques import GROUP, load_installed
from tests.optimize.workers import start_worker

PAGE = Path(__file__).parents[2] / "docs/techniques.md"


def test_every_technique_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(TECHNIQUES)


def test_the_example_can_be_registered_and_takes_part(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_technique.py").write_text(_example())
    monkeypatch.syspath_prepend(tmp_path)
    try:
        importlib.import_module("outside_technique")
        document = {"technique": "fade", "version": 1, "share": 0.25}
        recipe = Recipe.from_record(RecipeRecord(target="onnxruntime", techniques=(document,)))
        faded = make_prefix(recipe.torch, workshop).module
    finally:
        TECHNIQUES._items.pop("fade", None)
    original = workshop.bundle.module()
    assert faded.head.weight.equal(0.25 * original.head.weight)  # type: ignore[operator, union-attr]


def test_an_installed_package_takes_part_in_a_search(
    bundle: Bundle, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker and its trials' processes import it by its entry point; nobody here does."""
    (site := tmp_path / "site").mkdir()
    (site / "outside_technique.py").write_text(_example())
    _install(site, "outside_technique")
    monkeypatch.syspath_prepend(site)  # `start_worker` hands this path on
    document = settings.model_dump(mode="json")
    document |= {"targets": ["onnxruntime"], "workspace": str(tmp_path / "workspace")}
    document["optimize"] |= {"techniques": ["fade"], "workers": 1, "max_trials": 3, "budget_minutes": 3}
    worker = start_worker(bundle, parse_settings(document, source="test"), tmp_path, 0, tmp_path / "events.jsonl")
    assert worker.wait(120) == 0
    found = Candidates.load(tmp_path / "0")
    assert found.left_out == {}
    assert any(row.recipe.describe().startswith("fade @") for row in found.trials)


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="no_such_module_anywhere") as caught:
        load_installed()
    assert "outside-technique" in str(caught.value)


def _example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(code)


def _install(site: Path, module: str) -> None:
    """As pip leaves a package."""
    (record := site / "outside_technique-1.0.dist-info").mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-technique\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[{GROUP}]\nfade = {module}\n")
