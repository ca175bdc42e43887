"""Names of models and versions of code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from functools import cache
from pathlib import Path

from leanloop.core.errors import SettingsError
from leanloop.core.settings import NAME_PATTERN

_DECISIVE = ("core", "bundle", "runtime", "analyze", "optimize", "convert", "benchmark")


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
    """The version of leanloop whose code decides results: ``<version>+<digest of the steps' sources>``.

    Part of every recipe id and cache key. The digest tells a changed checkout from the release of the same number.
    """
    import leanloop.core

    components = Path(leanloop.core.__file__).parents[1]
    total = hashlib.sha256()
    for package in _DECISIVE:
        for path in sorted((components / package).rglob("*.py")):
            total.update(path.relative_to(components).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{importlib.metadata.version('leanloop')}+{total.hexdigest()[:12]}"
