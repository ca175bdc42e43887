"""Names of models and versions of code."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

from leanloop.core.errors import SettingsError
from leanloop.core.settings import NAME_PATTERN


def check_name(name: str) -> str:
    """Return a model name that is safe as folder, Triton model and metric label.

    Raises:
        SettingsError: It does not match `NAME_PATTERN`.
    """
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise SettingsError(
            "A model name must start with a letter and hold only letters, digits, _ and -, 64 at most.",
            value=name,
            fix="Change `model.name` in params.yaml.",
        )
    return name


@cache
def code_version() -> str:
    """The version of the installed leanloop, part of every recipe id and cache key."""
    return importlib.metadata.version("leanloop")
