"""The page on techniques: a row for each, and an example that works as it stands."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from leanloop.core.contracts import RecipeRecord
from leanloop.optimize import TECHNIQUES, Recipe, Workshop
from leanloop.optimize.apply import make_prefix

PAGE = Path(__file__).parents[2] / "docs/techniques.md"


def test_every_technique_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(TECHNIQUES)


def test_the_example_can_be_registered_and_takes_part(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "outside_technique.py").write_text(code)
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
