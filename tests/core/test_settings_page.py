"""The page on settings: a row for each, with its default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leanloop.core.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/settings.md"


def _settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


SETTINGS = dict(_settings(Settings))
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \| .*\S.* \|$", PAGE.read_text(), re.MULTILINE))


def test_every_setting_has_a_row_and_nothing_else_has() -> None:
    assert sorted(ROWS) == sorted(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_page_has_the_default(name: str) -> None:
    field = SETTINGS[name]
    if field.is_required():
        assert ROWS[name] == "needed"
        return
    default: Any = field.get_default(call_default_factory=True)
    said = yaml.safe_load(ROWS[name].strip("`")) if ROWS[name] else None
    if default in (None, "", (), {}):
        assert said is None
    else:
        assert said == (list(default) if isinstance(default, tuple) else default)
