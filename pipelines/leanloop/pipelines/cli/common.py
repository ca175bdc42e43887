"""Options that commands share, and how settings are read from them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from leanloop.core.errors import SettingsError
from leanloop.core.events import EVENTS_VARIABLE

if TYPE_CHECKING:
    from leanloop.core.settings import Settings

console = Console()

Params = Annotated[Path, typer.Option("--params", "-p", help="Settings file.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Replace a value, such as goal.batch_size=32. Repeatable.")
]
DEFAULT_PARAMS = Path("params.yaml")


def read_settings(params: Path, override: list[str] | None = None) -> Settings:
    """Settings with absolute paths, from a file and ``--set key=value`` options.

    Raises:
        SettingsError: See `leanloop.core.settings.load_settings`; or an option without ``=``.
    """
    import yaml

    from leanloop.core.settings import load_settings
    from leanloop.core.workspace import with_absolute_paths

    overrides = {}
    for entry in override or []:
        key, separator, value = entry.partition("=")
        if not separator:
            raise SettingsError("An override must be key=value.", where="--set", value=entry)
        overrides[key] = yaml.safe_load(value)
    return with_absolute_paths(load_settings(params, overrides), project_of(params))


def project_of(params: Path) -> Path:
    """The folder that the settings' relative paths start from."""
    return params.resolve().parent


@contextmanager
def step_progress() -> Iterator[None]:
    """Progress bars for steps that run in this process; an events file that the caller names is added to."""
    from leanloop.core.following import following

    if kept := os.environ.get(EVENTS_VARIABLE):
        with following(Path(kept), console):
            yield
        return
    with tempfile.TemporaryDirectory(prefix="leanloop-events-") as folder:
        events = Path(folder) / "events.jsonl"
        os.environ[EVENTS_VARIABLE] = str(events)
        try:
            with following(events, console):
                yield
        finally:
            del os.environ[EVENTS_VARIABLE]
