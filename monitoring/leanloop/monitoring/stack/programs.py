"""Programs that are not Python's: Prometheus, Alertmanager and their tools, found where they were installed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from leanloop.core.errors import ServingError

Tool = Literal["prometheus", "promtool", "alertmanager", "amtool"]

_NAMES: dict[Tool, tuple[str, ...]] = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),  # the second is Debian's
    "amtool": ("amtool",),
}
_UNPACKED = Path(".tools", "debian", "usr", "bin")


def find_program(tool: Tool) -> Path | None:
    """The program on PATH, else in ``.tools`` of this folder or one above; None when it is nowhere."""
    here = Path.cwd()
    for name in _NAMES[tool]:
        if found := shutil.which(name):
            return Path(found).absolute()
        for folder in (here, *here.parents):
            if (folder / _UNPACKED / name).exists():
                return folder / _UNPACKED / name
    return None


def need_program(tool: Tool) -> Path:
    """The program.

    Raises:
        ServingError: It is nowhere.
    """
    found = find_program(tool)
    if found is None:
        raise ServingError(
            f"{tool} is not installed.",
            where=f"PATH, and {Path.cwd() / _UNPACKED} and the folders above",
            value=" or ".join(_NAMES[tool]),
            fix="Run `make setup` on Debian or Ubuntu, or install it and put it on PATH.",
        )
    return found
