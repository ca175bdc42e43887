"""Several files that appear one after the other, for one flush of the disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from leanloop.core.errors import StoreError


def write_in_turn(texts: Mapping[Path, str]) -> None:
    """Write whole text files; they appear in the order given, and none before all of them are on the disk.

    They are synced at the same time, which a journaling file system does by one commit. One after the other, each would
    wait for a commit of its own: on a busy disk 20 ms each.

    Args:
        texts: By path; the folders are there.

    Raises:
        StoreError: The disk does not take them; unless a rename failed, no file has changed.
    """
    temporaries = {path.with_name(f".{path.name}.{uuid.uuid4().hex}"): path for path in texts}
    with ExitStack() as stack:
        try:
            for temporary, path in temporaries.items():
                stack.callback(temporary.unlink, missing_ok=True)
                temporary.write_text(texts[path], encoding="utf-8")
            with ThreadPoolExecutor(len(temporaries)) as pool:
                list(pool.map(_sync, temporaries))
            for temporary, path in temporaries.items():
                temporary.replace(path)
        except OSError as error:
            raise StoreError(
                "Files could not be written.",
                where=", ".join(map(str, texts)),
                value=error,
                fix="Free some space, or set `workspace` to another disk.",
            ) from error


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
