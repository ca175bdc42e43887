"""A folder that is watched for new models: each project that lands in it is run once, and again when it changes.

A project is a folder with a ``params.yaml``. It is taken when two looks find it unchanged, so that a copy under way is
not taken for a whole. What became of each is kept in ``<inbox>/.leanloop-inbox.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from leanloop.core.contracts import Record
from leanloop.core.errors import LeanloopError
from leanloop.core.files import digest_json, read_json, write_json
from leanloop.core.settings import Settings, load_settings
from leanloop.core.workspace import with_absolute_paths
from leanloop.pipelines import launch
from leanloop.pipelines.check import check_machine

PARAMS = "params.yaml"
_BOOK = ".leanloop-inbox.json"


class Arrival(Record):
    """What became of one project.

    Attributes:
        digest: Of its files as they were.
        run: Id; empty when it did not get so far.
        version: That serves since; None when the run failed.
        failure: Why it failed; empty when it did not.
    """

    digest: str
    run: str
    version: int | None
    failure: str


class Inbox:
    """The watched folder.

    Args:
        folder: It exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._book = self._folder / _BOOK
        self._last: dict[str, str] = {}

    def arrivals(self) -> dict[str, Arrival]:
        """What became of every project so far, by its folder's name."""
        if not self._book.exists():
            return {}
        return {name: Arrival.model_validate(entry) for name, entry in read_json(self._book).items()}

    def ready(self) -> Iterator[Path]:
        """Projects that are new or changed since they were run, and as they were at the last look."""
        done = self.arrivals()
        now = {path.parent.name: _digest(path.parent) for path in sorted(self._folder.glob(f"*/{PARAMS}"))}
        before, self._last = self._last, now
        for name, digest in now.items():
            if before.get(name) == digest and (name not in done or done[name].digest != digest):
                yield self._folder / name

    def take(self, project: Path) -> Arrival:
        """Run one project to its release, or find out why it cannot be."""
        digest = _digest(project)
        run = ""
        try:
            settings = check_machine(_settings(project))
            started = launch.new_run(settings, project)
            run = started.folder.name
            process = launch.start(started)
            try:
                status = process.wait()
            finally:
                launch.stop(process)
            arrival = Arrival(digest=digest, run=run, version=launch.finish(started, status).version, failure="")
        except LeanloopError as error:
            arrival = Arrival(digest=digest, run=run, version=None, failure=str(error))
        known = {name: entry.model_dump() for name, entry in self.arrivals().items()}
        write_json(self._book, known | {project.name: arrival.model_dump()})
        return arrival

    def watch(self, told: Callable[[Path, Arrival | None], None], *, seconds: float) -> None:
        """Look for ever, every so many seconds.

        Args:
            told: Called before a project is run (with None) and after.
            seconds: Between two looks.
        """
        while True:
            for project in self.ready():
                told(project, None)
                told(project, self.take(project))
            time.sleep(seconds)


def _settings(project: Path) -> Settings:
    return with_absolute_paths(load_settings(project / PARAMS), project)


def _digest(project: Path) -> str:
    """Of names, sizes and times of what the owner brought; hidden folders, such as the workspace, are left by runs."""
    files = {}
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project)
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
            found = path.stat()
            files[name.as_posix()] = (found.st_size, found.st_mtime_ns)
    return digest_json(files)
