"""Data files by reference: where they are, what they must contain, and how they come to the step that reads them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fsspec

from leanloop.core.contracts import FileReference
from leanloop.core.errors import DataError
from leanloop.core.files import atomic_file, digest_file, digest_json

_CACHE_VARIABLE = "LEANLOOP_DATA_CACHE"


def refer(url: str, project: Path, *, inline: bool) -> FileReference:
    """A reference to a file by path (relative to the project) or URL, with its digest.

    Raises:
        DataError: The file cannot be read.
    """
    absolute = url if "://" in url else str((project / url).resolve())
    total, size = hashlib.sha256(), 0
    try:
        with fsspec.open(absolute, "rb") as stream:
            while chunk := stream.read(1 << 20):
                total.update(chunk)
                size += len(chunk)
    except (OSError, ValueError, ImportError) as error:
        raise DataError("A data file cannot be read.", where="data.files", value=url, fix=str(error)) from error
    name = url.rstrip("/").rsplit("/", 1)[-1]
    return FileReference(url=absolute, name=name, sha256=total.hexdigest(), size_bytes=size, inline=inline)


def size_of(url: str, project: Path) -> int:
    """Bytes of a file by path or URL.

    Raises:
        DataError: It is not there.
    """
    absolute = url if "://" in url else str((project / url).resolve())
    try:
        files, path = fsspec.core.url_to_fs(absolute)
        return int(files.size(path))
    except (OSError, ValueError, ImportError, TypeError) as error:
        raise DataError(
            "A data file is not there.", where="data.files", value=url, fix="Correct the path, or run `make setup`."
        ) from error


def materialise(references: Sequence[FileReference], bundle: Path) -> Path:
    """A folder that holds all referenced files by name.

    Inline files lie in the bundle. Others are linked (a local path) or fetched (a URL) into a cache that is keyed by
    their digests, and checked once. The cache is LEANLOOP_DATA_CACHE, or a private folder in the temporary place.

    Raises:
        DataError: A file is gone, or has changed since it was bundled.
    """
    if all(reference.inline for reference in references):
        return bundle / "data"
    key = digest_json([reference.model_dump(mode="json") for reference in references])[:32]
    root = _cache() / key
    root.mkdir(parents=True, exist_ok=True)
    for reference in references:
        target = root / reference.name
        if not target.exists():
            _bring(reference, bundle, target)
        _verify(reference, target)
    return root


def _cache() -> Path:
    default = Path(tempfile.gettempdir()) / f"leanloop-data-{os.getuid()}"
    cache = Path(os.environ.get(_CACHE_VARIABLE, default))
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise DataError("The data cache belongs to somebody else.", value=str(cache), fix=f"Set {_CACHE_VARIABLE}.")
    return cache


def _bring(reference: FileReference, bundle: Path, target: Path) -> None:
    source = bundle / "data" / reference.name if reference.inline else Path(reference.url)
    try:
        if reference.inline or "://" not in reference.url:
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            temporary.symlink_to(source.resolve(strict=True))
            temporary.replace(target)
            return
        with atomic_file(target) as fetched:
            fsspec.filesystem(reference.url.split("://", 1)[0]).get_file(reference.url, str(fetched))
    except OSError as error:
        raise DataError("A data file of the bundle is gone.", value=reference.url, fix=str(error)) from error


def _verify(reference: FileReference, file: Path) -> None:
    found = digest_file(file)
    if found != reference.sha256:
        raise DataError(
            "A data file has changed since it was bundled.",
            where=reference.url,
            value=f"sha256 {found[:16]}..., not {reference.sha256[:16]}...",
            fix="Run the bundle step again, so that results and data belong together.",
        )
