"""Importing the owner's code from a bundle's ``code/`` folder, and from nowhere else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from leanloop.core.errors import BundleError


def import_object(path: str, code: Path) -> Callable[..., Any]:
    """Import ``module:function`` from a bundle's code folder.

    Modules of another bundle that bear the same name (``model`` is common) are forgotten first.

    Raises:
        BundleError: The module or the function is not there, lies elsewhere, or fails on import.
    """
    module_name, _, name = path.partition(":")
    module = _import(module_name, code)
    found = getattr(module, name, None)
    if not callable(found):
        raise BundleError(
            "The owner's module has no such function.",
            where=str(module.__file__),
            value=name,
            fix=f"Define `def {name}(...)` there, or correct the name in params.yaml.",
        )
    return found  # type: ignore[no-any-return]


def _import(name: str, code: Path) -> ModuleType:
    code = code.resolve()
    _forget_other_bundles(code)
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise BundleError(
            "The owner's module cannot be imported.",
            where=f"{name}, in {code}",
            value=f"{type(error).__name__}: {error}",
            fix="List every file that it needs under `model.code` in params.yaml.",
        ) from error
    finally:
        sys.path.remove(str(code))
    if module.__file__ is None or not Path(module.__file__).resolve().is_relative_to(code):
        raise BundleError(
            "The owner's module was found outside the bundle.",
            where=str(module.__file__),
            value=name,
            fix="List its file under `model.code`, or rename it: an installed package has the same name.",
        )
    return module


def _forget_other_bundles(code: Path) -> None:
    tops = {path.stem for path in code.iterdir() if path.suffix == ".py" or path.is_dir()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in tops:
            continue
        file = getattr(module, "__file__", None)
        if file is not None and not Path(file).resolve().is_relative_to(code):
            del sys.modules[name]
