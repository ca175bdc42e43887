"""Traffic of a scenario, recorded as Triton would: real answers, in segments that the product's writer writes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from loop.cast import CLIPPED, CONFUSED, Cast, Model
from loop.scenarios import Scenario
from loop.served import normalised

from leanloop.monitoring.labels import Label
from leanloop.pipelines.demo.shifts import Shift, drawn, shifted
from leanloop.serving.capture_format import SUFFIX, Capture, Record

WINDOW = 500
START = 4_000_000_000.0
"""Later than any clock: what is asked before a release was promoted is none of its requests."""
LOOK_SECONDS = 10.0
PACES = (30.0, 60.0, 120.0)
"""Seconds until so many records are captured that a window is full."""

REQUEST_SIZES = (1, 1, 4)
EASY = (1, 5, 7, 8, 9)
"""Trouser, sandal, sneaker, bag, boot: more of them costs no accuracy."""

COMPUTE_MS = 0.5
_MOST_WAITING = 100_000


@dataclass
class Look:
    """What there is at one look of the loop.

    Attributes:
        at: Unix time.
        records: Recorded since the fault began.
        faulty: Whether it has begun.
        segments: Finished since the look before.
        labels: Told since the look before.
    """

    at: float
    records: int
    faulty: bool
    segments: list[Path] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


@dataclass(frozen=True)
class Recording:
    """One replay's input.

    Attributes:
        shift: That was drawn, with its severity.
        looks: In order.
    """

    shift: tuple[Shift, int]
    looks: list[Look]


@dataclass(frozen=True)
class _Part:
    """Some samples in the order in which they are asked."""

    images: np.ndarray
    answers: np.ndarray
    labels: np.ndarray
    told: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def record(
    scenario: Scenario, cast: Cast, version: int, pace: float, rng: np.random.Generator, folder: Path
) -> Recording:
    """Record a scenario.

    Args:
        scenario: What happens.
        cast: Who answers.
        version: That answers, as it is numbered in the repository.
        pace: Seconds per window.
        rng: Draws everything that a seed draws.
        folder: For the segments.
    """
    size = int(rng.choice(REQUEST_SIZES))
    shift, severity = scenario.shifts[rng.integers(len(scenario.shifts))]
    # A window rarely begins with the fault. Where two faults begin at once, their first signs come together.
    healthy = scenario.before * WINDOW + (int(rng.integers(WINDOW)) if scenario.before and not scenario.mixed else 0)
    faulty = scenario.windows * WINDOW
    champion = cast.releases[scenario.release].champion
    broken = float(rng.uniform(0.03, 0.3)) if scenario.broken else 0.0
    parts = [
        _asked(cast, champion, "none", 1, healthy, scenario.labelled_before, rng),
        _asked(
            cast, cast.worn if scenario.server == "worn" else champion, shift, severity, faulty, scenario.labelled, rng,
            redefined=scenario.redefined, nan=broken if scenario.broken == "nan" else 0.0,
        ),
    ]  # fmt: skip
    silent = scenario.server in ("down", "dead")
    count = healthy + faulty
    per_look = WINDOW * LOOK_SECONDS / pace
    looks = []
    for number in range(int(np.ceil(count / per_look))):
        end = min(count, round((number + 1) * per_look))
        looks.append(Look(START + (number + 1) * LOOK_SECONDS, max(0, end - healthy), end > healthy))
    delay = round(scenario.label_delay * pace / LOOK_SECONDS)
    begin = 0
    for number, look in enumerate(looks):
        end = min(count, round((number + 1) * per_look))
        for part, first, is_faulty in ((parts[0], 0, False), (parts[1], healthy, True)):
            rows = np.arange(max(begin, first), min(end, first + len(part))) - first
            if not len(rows) or (is_faulty and silent):
                continue
            flattened = broken if is_faulty and scenario.broken == "shape" else 0.0
            requests, labels = _requests(part, rows, size, cast.spec.name, version, look.at, flattened, rng)
            look.segments += _written(requests, folder / f"{number}-{int(is_faulty)}")
            told_at = number + (delay if is_faulty else 0)
            if told_at < len(looks):
                looks[told_at].labels += labels
        begin = end
    return Recording((shift, severity), looks)


def _asked(
    cast: Cast,
    model: Model,
    shift: Shift,
    severity: int,
    count: int,
    labelled: float,
    rng: np.random.Generator,
    *,
    redefined: bool = False,
    nan: float = 0.0,
) -> _Part:
    """Samples of the test split, each window drawn without replacement, under a shift, and what the model answers."""
    # Where compression hurts one class, that one becomes the crowd.
    top = CLIPPED if model is cast.releases["clipped"].champion else int(rng.choice(EASY))
    sizes = [WINDOW] * (count // WINDOW) + ([count % WINDOW] if count % WINDOW else [])
    rows = [drawn(cast.classes, size, shift, severity, rng, top=top) for size in sizes]
    chosen = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    pixels = shifted(cast.pixels[chosen], shift, severity, rng) if count else cast.pixels[:0]
    images = normalised(pixels)
    images[rng.random(count) < nan, :, 3:6] = np.nan
    labels = cast.classes[chosen].copy()
    if redefined:
        one, other = (labels == number for number in CONFUSED)
        labels[one], labels[other] = CONFUSED[::-1]
    answers = model.answers(images) if count else np.zeros((0, 10), np.float32)
    return _Part(images, answers, labels, rng.random(count) < labelled)


def _requests(
    part: _Part,
    rows: np.ndarray,
    size: int,
    model: str,
    version: int,
    until: float,
    flattened: float,
    rng: np.random.Generator,
) -> tuple[list[Record], list[Label]]:
    """Requests of at most so many samples, in the seconds before a look, and the labels of those that get one."""
    records, labels = [], []
    starts = range(0, len(rows), size)
    for place, start in enumerate(starts):
        chosen = rows[start : start + size]
        identity = str(uuid.UUID(bytes=rng.bytes(16), version=4))
        images = part.images[chosen]
        if rng.random() < flattened:
            images = images.reshape(len(images), -1)
        at = until - LOOK_SECONDS * (1 - place / len(starts))
        records.append(
            Record(identity, model, version, at, COMPUTE_MS, {"image": images}, {"logits": part.answers[chosen]})
        )
        labels += [
            Label(request_id=identity, sample=sample, label=int(part.labels[row]))
            for sample, row in enumerate(chosen)
            if part.told[row]
        ]
    return records, labels


def _written(records: Sequence[Record], folder: Path) -> list[Path]:
    capture = Capture(folder, rate=1.0, queue_records=_MOST_WAITING)
    for one in records:
        capture.offer(one)
    capture.close()
    if capture.counters.captured != len(records):
        raise OSError(f"{len(records)} records were to be written, not {capture.counters.captured}: {folder}")
    return sorted(folder.glob(f"*{SUFFIX}"))
