"""Recent live samples as training data: checked, capped per source, with the labels that have come.

Captured requests are not trusted. A record is quarantined, and counted by reason, when its tensors are not what the
model takes, hold NaN or infinite values, lie far outside what the calibration data hold, repeat another record, or
carry an impossible label. No source may give more than a share of all, so that nobody teaches the model alone. The same
rows and labels always give the same snapshot.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from leanloop.core.errors import DataError
from leanloop.core.files import atomic_folder, digest_file
from leanloop.core.loop_contracts import DATA, Snapshot
from leanloop.core.names import check_name
from leanloop.core.settings import InputSpec
from leanloop.monitoring.collect import files_of, misfit, tensor_of
from leanloop.monitoring.labels import Labels

MOST_RECORDS = 6_000
SOURCE_SHARE = 0.25

_FAR = 3.0
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_KEYS = ("request_id", "sample", "time")


@dataclass(frozen=True)
class Schema:
    """What a record must be like.

    Attributes:
        inputs: Name, shape and type of every input.
        ranges: Lowest and highest value of the calibration data, by input name. A record with a value further off than
            three times the span between them is left out; an input that is not named is not looked at.
        classes: Labels must be whole numbers below this; None for a regression.
    """

    inputs: Sequence[InputSpec]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    classes: int | None = None


@dataclass(frozen=True)
class _Row:
    """Where one sample lies, and what is known of it without reading its tensors."""

    file: Path
    index: int
    request_id: str
    sample: int
    time: float
    label: float


def take_snapshot(
    rows: Path,
    labels: Labels,
    destination: Path,
    *,
    model: str,
    bundle_digest: str,
    schema: Schema,
    since: float,
    most: int = MOST_RECORDS,
    source_share: float = SOURCE_SHARE,
) -> Snapshot:
    """Write a snapshot folder from captured rows.

    Args:
        rows: Root of what `leanloop.monitoring.collect` writes.
        labels: Of all models.
        destination: Folder to make.
        model: Name of the model.
        bundle_digest: Of the release's bundle.
        schema: What a record must be like.
        since: Unix time of the oldest record that counts.
        most: Records at most; labelled ones come first, then the newest.
        source_share: Of the records, what one source may give; more only where there are too few sources for that.

    Raises:
        DataError: No record is left.
    """
    quarantined: Counter[str] = Counter()
    found = _find(rows, labels, check_name(model), since)
    capped = _cap(found, source_share, quarantined)
    chosen = sorted(capped, key=lambda row: (np.isnan(row.label), -row.time, row.request_id, row.sample))[:most]
    kept, inputs = _read(chosen, schema, quarantined)
    if not kept:
        raise DataError(
            "There are no live samples to learn from.",
            where=str(rows),
            value=f"{len(found)} records since {since:.0f}; left out: {dict(quarantined) or 'none'}",
            fix="Serve with monitoring.capture_rate above 0, and wait for requests.",
        )
    with atomic_folder(destination) as folder:
        label = np.array([row.label for row in kept], np.float64)
        np.savez(
            folder / DATA,
            allow_pickle=False,
            label=label,
            time=np.array([row.time for row in kept], np.float64),
            request_id=np.array([row.request_id for row in kept], np.str_),
            **{f"inputs/{name}": values for name, values in inputs.items()},
        )
        snapshot = Snapshot(
            model=model,
            versions=tuple(sorted({_version(row.file) for row in kept})),
            bundle_digest=bundle_digest,
            first=kept[0].time,
            last=kept[-1].time,
            records=len(kept),
            labelled=int(np.isfinite(label).sum()),
            quarantined=dict(sorted(quarantined.items())),
            sources=dict(sorted(Counter(source_of(row.request_id) for row in kept).items())),
            digest=digest_file(folder / DATA),
        )
        snapshot.save(folder)
    return snapshot


def source_of(request_id: str) -> str:
    """Who sent a request, where the client says so: the id up to its first ``.`` or ``-``; empty where it does not.

    >>> source_of("till-7.0001"), source_of("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), source_of("a17")
    ('till', '', '')
    """
    if _UUID.fullmatch(request_id):
        return ""
    found = re.match(r"([^.-]+)[.-]", request_id)
    return found.group(1) if found else ""


def _find(root: Path, labels: Labels, model: str, since: float) -> list[_Row]:
    """All samples since a time, without their tensors, in the order of their files."""
    files = files_of(root, model)
    tables = [(file, pq.read_table(file, columns=list(_KEYS), partitioning=None).to_pydict()) for file in files]
    wanted = {
        identity
        for _, keys in tables
        for identity, time in zip(keys["request_id"], keys["time"], strict=True)
        if time >= since
    }
    known = labels.of(model, wanted)
    return [
        _Row(file, index, identity, sample, time, float(known.get((identity, sample), np.nan)))
        for file, keys in tables
        for index, (identity, sample, time) in enumerate(zip(*(keys[key] for key in _KEYS), strict=True))
        if time >= since
    ]


def _cap(rows: Sequence[_Row], share: float, quarantined: Counter[str]) -> list[_Row]:
    """Each named source's newest rows, up to its share; rows of unknown sources are not counted together."""
    sources = Counter(source_of(row.request_id) for row in rows)
    named = sum(1 for source in sources if source)
    limit = int(max(share, 1 / (named + bool(sources[""]))) * len(rows)) if named else 0
    taken: Counter[str] = Counter()
    kept = []
    for row in sorted(rows, key=lambda row: (-row.time, row.request_id, row.sample)):
        source = source_of(row.request_id)
        if source and taken[source] >= limit:
            quarantined["more than its source's share"] += 1
            continue
        taken[source] += 1
        kept.append(row)
    return kept


def _read(
    rows: Sequence[_Row], schema: Schema, quarantined: Counter[str]
) -> tuple[list[_Row], dict[str, np.ndarray[Any, Any]]]:
    """The rows that pass, oldest first, and their tensors by input name."""
    by_file: dict[Path, list[_Row]] = {}
    for row in rows:
        by_file.setdefault(row.file, []).append(row)
    kept: list[tuple[_Row, dict[str, np.ndarray[Any, Any]]]] = []
    for file, members in sorted(by_file.items()):
        table = pq.read_table(file, columns=_columns(file, schema), partitioning=None)
        if reason := misfit(table, "input", schema.inputs):
            quarantined[reason] += len(members)
            continue
        tensors = {spec.name: tensor_of(table, f"input.{spec.name}") for spec in schema.inputs}
        for row in members:
            sample = {name: values[row.index] for name, values in tensors.items()}
            if reason := _fault(sample, row.label, schema):
                quarantined[reason] += 1
            else:
                kept.append((row, sample))
    # Of two records with the same content the labelled one stays, then the older one.
    kept.sort(key=lambda pair: (np.isnan(pair[0].label), pair[0].time, pair[0].request_id, pair[0].sample))
    seen: set[bytes] = set()
    different = []
    for row, sample in kept:
        content = hashlib.sha256(b"".join(values.tobytes() for values in sample.values())).digest()
        if content in seen:
            quarantined["the same as another record"] += 1
            continue
        seen.add(content)
        different.append((row, sample))
    different.sort(key=lambda pair: (pair[0].time, pair[0].request_id, pair[0].sample))
    stacked = {
        spec.name: np.stack([sample[spec.name] for _, sample in different]) for spec in schema.inputs if different
    }
    return [row for row, _ in different], stacked


def _columns(file: Path, schema: Schema) -> list[str]:
    there = set(pq.read_schema(file).names)
    return [name for spec in schema.inputs if (name := f"input.{spec.name}") in there]


def _fault(sample: Mapping[str, np.ndarray[Any, Any]], label: float, schema: Schema) -> str | None:
    for name, values in sample.items():
        if not np.isfinite(values).all():
            return "NaN or infinite values"
        if name in schema.ranges:
            low, high = schema.ranges[name]
            margin = _FAR * (high - low)
            if values.min() < low - margin or values.max() > high + margin:
                return "values far outside the calibration data"
    if schema.classes is not None and not np.isnan(label) and not (label.is_integer() and 0 <= label < schema.classes):
        return "an impossible label"
    return None


def _version(file: Path) -> int:
    return int(file.parents[1].name.removeprefix("version="))
