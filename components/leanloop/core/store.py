"""The store: results kept between runs under a key, in any place that fsspec reaches."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanloop.core.files import atomic_folder
from leanloop.core.packed import SUFFIX, packed, unpack, worth_packing


class Store:
    """Immutable folders and small JSON documents under keys such as ``trials/<id>``.

    The same code serves a local folder, S3 and memory: ``url`` decides. An entry is complete when its marker is
    there, and the marker is written last, so a crash never leaves a half entry to be read. Files that are mostly zeros,
    as those of sparse networks, are kept compressed (`leanloop.core.packed`).
    """

    _MARKER = ".complete"

    def __init__(self, url: str) -> None:
        import fsspec  # slow to import, and `leanloop --help` needs no store

        self.url = url
        self._files, self._root = fsspec.core.url_to_fs(url)

    def _path(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"not a store key: {key!r}")
        return f"{self._root.rstrip('/')}/{key}"

    def has_folder(self, key: str) -> bool:
        """Whether a complete folder is kept under this key."""
        return bool(self._files.exists(f"{self._path(key)}/{self._MARKER}"))

    def put_folder(self, key: str, folder: Path) -> None:
        """Keep a copy of a folder; a key that is there already is left as it is."""
        if self.has_folder(key):
            return
        path = self._path(key)
        self._files.makedirs(path, exist_ok=True)
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            target = f"{path}/{file.relative_to(folder).as_posix()}"
            self._files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            if worth_packing(file):
                with packed(file) as smaller:
                    self._files.put_file(str(smaller), f"{target}{SUFFIX}")
            else:
                self._files.put_file(str(file), target)
        self._files.pipe_file(f"{path}/{self._MARKER}", b"")

    def get_folder(self, key: str, folder: Path) -> bool:
        """Copy an entry into ``folder`` (made whole or not at all); False when there is none."""
        if not self.has_folder(key):
            return False
        path = self._path(key)
        with atomic_folder(folder) as temporary:
            for name in self._files.find(path):
                relative = name.removeprefix(path).lstrip("/")
                if relative == self._MARKER:
                    continue
                target = temporary / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(name, str(target))
                if relative.endswith(SUFFIX):
                    unpack(target)
        return True

    def take_folder(self, key: str, folder: Path, make: Callable[[Path], object]) -> None:
        """Copy an entry into ``folder``; when there is none, ``make`` fills the folder, and it is kept.

        Args:
            key: Of the entry.
            folder: Made when it is not there.
            make: Called with the empty folder.
        """
        if not self.get_folder(key, folder):
            folder.mkdir(parents=True, exist_ok=True)
            make(folder)
            self.put_folder(key, folder)

    def put_json(self, key: str, document: Any) -> None:
        """Write a JSON document under a key, replacing an older one in one move."""
        path = self._path(key)
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.part"
        self._files.pipe_file(temporary, json.dumps(document, indent=2, allow_nan=False).encode())
        self._files.mv(temporary, path)

    def get_json(self, key: str) -> Any | None:
        """The JSON document under a key, or None."""
        path = self._path(key)
        if not self._files.exists(path):
            return None
        return json.loads(self._files.cat_file(path))

    def keys(self, prefix: str) -> list[str]:
        """Keys of the JSON documents below a prefix, sorted."""
        path = self._path(prefix)
        if not self._files.exists(path):
            return []
        root = self._root.rstrip("/")
        return sorted(name.removeprefix(root).lstrip("/") for name in self._files.find(path) if name.endswith(".json"))
