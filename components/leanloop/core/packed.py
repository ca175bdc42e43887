"""Files that are kept compressed where that is worth it: those of a sparse network are mostly zeros.

Dense weights hardly shrink, so a file is judged by a block from its middle, which takes a millisecond.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

SUFFIX = ".packed"
"""Ends the name of a compressed file."""

_LEAST_BYTES, _BLOCK = 1 << 16, 1 << 18
_WORTH = 0.6
_LEVEL = 6


def worth_packing(file: Path) -> bool:
    """Whether a file is large, and much smaller once compressed; one of such a name is, to come back under its own."""
    if file.name.endswith(SUFFIX):
        return True
    size = file.stat().st_size
    if size < _LEAST_BYTES:
        return False
    with file.open("rb") as stream:
        stream.seek(max(0, (size - _BLOCK) // 2))
        block = stream.read(_BLOCK)
    return len(zlib.compress(block, 1)) < _WORTH * len(block)


@contextmanager
def packed(file: Path) -> Iterator[Path]:
    """A compressed copy of a file, gone at the end; the same bytes for the same file."""
    with TemporaryDirectory(prefix="leanloop-packed-") as scratch:
        target = Path(scratch) / f"{file.name}{SUFFIX}"
        with (
            file.open("rb") as source,
            target.open("wb") as raw,
            gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as stream,
        ):
            shutil.copyfileobj(source, stream, _BLOCK)
        yield target


def unpack(file: Path) -> None:
    """Put what was compressed in the place of a file that `packed` made, under its own name."""
    with gzip.open(file, "rb") as source, file.with_name(file.name.removesuffix(SUFFIX)).open("wb") as target:
        shutil.copyfileobj(source, target, _BLOCK)
    file.unlink()
