"""Files that are either whole or absent: atomic writes, digests, paths that stay inside their root."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leanloop.core.errors import StoreError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it is fsynced and renamed when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    temporary.chmod(0o644)
    try:
        with _told_when_disk_full(path):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that replaces it when the block ends without error.

    An empty folder at ``path`` (as pipeline runners make) is replaced; one with content is replaced whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    temporary.chmod(0o755)
    try:
        with _told_when_disk_full(path):
            yield temporary
            if path.exists():
                retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
                path.rename(retired / "old")
                temporary.rename(path)
                shutil.rmtree(retired)
            else:
                temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _told_when_disk_full(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                "The disk is full; nothing was written.",
                where=str(path),
                value=f"{shutil.disk_usage(path.parent).free} bytes free",
                fix="Free some space, or set `workspace` to another disk.",
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write sorted, indented JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StoreError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError("A file is missing.", where=str(path), fix="Run the step that writes it.") from error
    except json.JSONDecodeError as error:
        raise StoreError("A file is not valid JSON.", where=str(path), value=error) from error


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """SHA-256 over the relative names and contents of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        total.update(digest_file(path).encode() + b"\0")
    return total.hexdigest()


def digest_json(document: Any) -> str:
    """SHA-256 of a document's canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def inside(root: Path, name: str) -> Path:
    """``root / name``, refused when it leads out of ``root``.

    Raises:
        StoreError: The name is absolute, climbs out, or goes through a link that does.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise StoreError("A file name leads out of its folder.", where=str(root), value=name)
    return path
