"""What the steps of a re-optimisation hand to each other, beside the contracts of a plain run.

snapshot/    snapshot.json    + data.npz
champion/    champion.json    + bundle/, artifact/, student/
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from leanloop.core.contracts import Artifact, FileContract, Release
from leanloop.core.settings import Name

CHAMPION = "champion"
"""Folder among the candidates of a re-optimisation, with ``champion.json`` and the artifact's files."""

STUDENT = "student"
"""Folder of a `Champion`."""

MAY_BE_SLOWER = 1.1
"""A challenger that answers better than the champion may take so many times as long."""

DATA = "data.npz"
"""Of a snapshot: its samples."""


class Snapshot(FileContract):
    """``snapshot.json``: recent live samples of one model, checked, and their labels where these are known.

    ``data.npz`` holds ``inputs/<name>`` [n, ...], ``label`` [n] (float64, NaN where unknown), ``time`` [n] (Unix
    seconds) and ``request_id`` [n] (text of fixed length), oldest first.
    """

    filename: ClassVar[str] = "snapshot.json"
    model: Name
    versions: tuple[int, ...] = Field(description="that answered these requests")
    bundle_digest: str = Field(description="of the release's bundle")
    first: float = Field(description="Unix time of the oldest record")
    last: float = Field(description="Unix time of the newest record")
    records: int
    labelled: int
    quarantined: dict[str, int] = Field(description="why records were left out -> how many")
    sources: dict[str, int] = Field(
        description="who sent them, as the request ids tell -> records; empty name: unknown"
    )
    digest: str = Field(description="SHA-256 of data.npz")


class Champion(FileContract):
    """``champion.json``: the release that serves; ``bundle/`` holds its bundle, ``artifact/`` its files.

    ``student/`` holds the trained PyTorch module that the files were made from, where that is not the original.
    """

    filename: ClassVar[str] = "champion.json"
    release: Release
    artifact: Artifact
