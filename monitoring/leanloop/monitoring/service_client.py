"""Talks to leanloop's service on this machine: what the command line and the demo use."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from leanloop.core.errors import DataError, ServingError
from leanloop.core.launcher import Kind
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.labels import Added, Label
from leanloop.monitoring.stack.plan import token_file
from leanloop.monitoring.view import LoopView

_CHUNK = 10_000


class ServiceClient:
    """A client of the service that the settings name.

    Args:
        settings: With absolute paths.
        timeout: Seconds for one call.
    """

    def __init__(self, settings: Settings, timeout: float = 30.0) -> None:
        self._url = f"http://{settings.monitoring.service_url}"
        self._token = token_file(Workspace(settings))
        self._timeout = timeout

    def status(self) -> LoopView:
        """What the loop knows."""
        return LoopView.model_validate(self._call("/v1/status"))

    def incidents(self, model: str | None = None) -> list[dict[str, Any]]:
        """The newest incidents, newest first."""
        found: list[dict[str, Any]] = self._call("/v1/incidents" + (f"?model={model}" if model else ""))
        return found

    def runs(self, model: str | None = None) -> list[dict[str, Any]]:
        """The newest runs, newest first."""
        found: list[dict[str, Any]] = self._call("/v1/runs" + (f"?model={model}" if model else ""))
        return found

    def add_labels(self, model: str, labels: Sequence[Label]) -> Added:
        """Tell what was right, in pieces that the service takes."""
        total = Added(0, 0, 0)
        for start in range(0, len(labels), _CHUNK):
            piece = [label.model_dump() for label in labels[start : start + _CHUNK]]
            added = Added(**self._call("/v1/labels", {"model": model, "labels": piece}))
            total = Added(total.new + added.new, total.repeated + added.repeated, total.conflicting + added.conflicting)
        return total

    def start_run(self, model: str, kind: Kind, reason: str, since: float | None = None) -> str:
        """Ask for a run; returns its id."""
        body = {"model": model, "kind": kind, "reason": reason, "since": since}
        return str(self._call("/v1/runs", body)["id"])

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if body is not None:
            headers["Authorization"] = f"Bearer {self._read_token()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise _refused(path, error) from error
        except OSError as error:
            raise ServingError(
                "leanloop's service does not answer.",
                where=self._url + path,
                value=error,
                fix="Start it with `leanloop up`, or correct monitoring.service_url.",
            ) from error

    def _read_token(self) -> str:
        try:
            return self._token.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ServingError(
                "The token of leanloop's service cannot be read.",
                where=str(self._token),
                value=error.strerror,
                fix="Start the stack with `leanloop up`, as the same user.",
            ) from error


def _refused(path: str, error: urllib.error.HTTPError) -> ServingError:
    text = error.read().decode(errors="replace")
    try:
        detail = json.loads(text)["detail"]
    except (json.JSONDecodeError, KeyError, TypeError):
        detail = text
    if isinstance(detail, dict):
        return ServingError(detail["what"], where=detail["where"], value=detail["value"], fix=detail["fix"])
    return ServingError("leanloop's service refuses a call.", where=path, value=f"{error.code}: {detail}")


def read_labels(path: Path) -> list[Label]:
    """Labels of a ``.parquet`` or ``.csv`` file with the columns ``request_id``, ``label`` and, if wanted, ``sample``.

    Raises:
        DataError: The file cannot be read, lacks a column, or a row is no label; names the row.
    """
    import pandas as pd

    if path.suffix not in (".parquet", ".csv"):
        raise DataError("Labels come as .parquet or .csv.", where=str(path), value=path.suffix)
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError("The labels cannot be read.", where=str(path), value=error) from error
    missing = {"request_id", "label"} - set(table.columns)
    if missing:
        raise DataError(
            "The labels lack a column.",
            where=str(path),
            value=", ".join(sorted(missing)),
            fix="Columns: request_id, label, and sample for requests of several samples.",
        )
    samples = table["sample"] if "sample" in table.columns else np.zeros(len(table), dtype=int)
    return list(_labels(path, zip(table["request_id"], samples, table["label"], strict=True)))


def _labels(path: Path, rows: Iterator[tuple[Any, Any, Any]]) -> Iterator[Label]:
    for number, (identity, sample, label) in enumerate(rows):
        value = label.item() if isinstance(label, np.generic) else label
        try:
            yield Label(request_id=str(identity), sample=int(sample), label=value)
        except (ValidationError, ValueError) as error:
            raise DataError(
                "A row is no label.",
                where=f"{path}, row {number + 1}",
                value=f"{identity}, {sample}, {label}",
                fix=str(error).splitlines()[-2].strip() if isinstance(error, ValidationError) else "",
            ) from error
