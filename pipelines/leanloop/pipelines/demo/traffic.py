"""The demo's traffic: real test samples, asked at a steady rate, shifted if wanted; their labels come later."""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from leanloop.bundle import Bundle, classes_of
from leanloop.core.errors import DataError, ServingError
from leanloop.core.releases import fetch_release, latest_release
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.labels import Label
from leanloop.monitoring.service_client import ServiceClient
from leanloop.pipelines.demo.shifts import Shift, check, drawn, shifted
from leanloop.serving import TritonClient, stack

_SENDERS = 4
_ROUND = 500
_LABEL_SECONDS = 1.0


@dataclass(frozen=True)
class Samples:
    """What is asked: one image input, and what is right."""

    model: str
    input: str
    output: str
    images: np.ndarray
    classes: np.ndarray


def read_samples(settings: Settings) -> Samples:
    """The test split of the model that was released last under this name.

    Raises:
        DataError: It has no labels, or its input is no image.
        StoreError: It was never released.
    """
    store = Workspace(settings).store
    release = latest_release(store, settings.model.name)
    with tempfile.TemporaryDirectory(prefix="leanloop-demo-") as name:
        folder, _, _ = fetch_release(store, release, Path(name))
        bundle = Bundle(folder)
        test = bundle.split("test")
        (spec, *others), targets = bundle.manifest.inputs, test.targets
        if others or len(spec.shape) != 3 or targets is None:
            raise DataError(
                "The demo's traffic needs a classifier of images with labelled test samples.",
                where=settings.model.name,
                value=", ".join(f"{one.name} {one.shape}" for one in bundle.manifest.inputs),
            )
        return Samples(release.model, spec.name, bundle.manifest.outputs[0], test.inputs[spec.name], targets)


@dataclass
class Sent:
    """What became of the requests so far.

    Attributes:
        requests: Answered.
        failed: Refused or not answered.
        right: Answered with the right class.
        labels: Told.
        versions: Answers by version.
        milliseconds: That each answer took, as its client saw it.
    """

    requests: int = 0
    failed: int = 0
    right: int = 0
    labels: int = 0
    versions: dict[int, int] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)

    def add(self, other: Sent) -> None:
        """Take in what became of further requests."""
        self.requests += other.requests
        self.failed += other.failed
        self.right += other.right
        self.labels += other.labels
        for version, count in other.versions.items():
            self.versions[version] = self.versions.get(version, 0) + count
        self.milliseconds += other.milliseconds

    @property
    def p99_ms(self) -> float:
        """What 99 of 100 answers took at most; 0 without any."""
        return float(np.quantile(self.milliseconds, 0.99)) if self.milliseconds else 0.0

    @property
    def accuracy(self) -> float:
        """Share of the answers that were right."""
        return self.right / self.requests if self.requests else 0.0


class Traffic:
    """Sends single samples at a steady rate until it is stopped.

    Args:
        settings: Name the server and the service.
        samples: What is asked.
        rate: Requests per second.
        label_delay: Seconds until an answer's label is told; None tells none.
        seed: Of the order and the noise.
    """

    def __init__(
        self, settings: Settings, samples: Samples, *, rate: float, label_delay: float | None, seed: int = 0
    ) -> None:
        self._settings, self._samples, self._rate, self._delay = settings, samples, rate, label_delay
        self._rng = np.random.default_rng(seed)
        self._waiting: deque[tuple[float, Label]] = deque()
        self._lock = threading.Lock()
        self.sent = Sent()

    def send(self, shift: Shift, severity: int, *, count: int) -> Sent:
        """Send so many requests under a shift; returns what became of them. Labels are told on the way.

        Raises:
            SettingsError: The shift is unknown.
        """
        check(shift, severity)
        self.sent = sent = Sent()
        ended = threading.Event()
        teller = threading.Thread(target=self._tell, args=(ended,))
        teller.start()
        started = time.monotonic()
        try:
            with (
                stack.connect(self._settings.serving, Workspace(self._settings).serving) as client,
                ThreadPoolExecutor(_SENDERS) as pool,
            ):
                asked = []
                for number, (image, target) in enumerate(self._draw(shift, severity, count)):
                    time.sleep(max(0.0, started + number / self._rate - time.monotonic()))
                    asked.append(pool.submit(self._ask, client, image, target))
                for one in asked:
                    one.result()
        finally:
            ended.set()
            teller.join()
        return sent

    def _draw(self, shift: Shift, severity: int, count: int) -> Iterator[tuple[np.ndarray, int]]:
        classes = self._samples.classes
        # A camera sees black and white pixels somewhere, however the owner scales them for the model.
        low, high = float(self._samples.images.min()), float(self._samples.images.max())
        # A round draws without replacement: no more than there is, of the top class either.
        most = min(_ROUND, int((classes == 0).sum()) if shift == "class-mix" else len(classes))
        while count > 0:
            rows = drawn(classes, min(most, count), shift, severity, self._rng)
            pixels = (self._samples.images[rows] - low) / (high - low)
            images = (low + (high - low) * shifted(pixels, shift, severity, self._rng)).astype(np.float32)
            yield from zip(images, classes[rows].tolist(), strict=True)
            count -= len(rows)

    def _ask(self, client: TritonClient, image: np.ndarray, target: int) -> None:
        identity, started = str(uuid.uuid4()), time.perf_counter()
        try:
            answer = client.answer(self._samples.model, {self._samples.input: image[None]}, request_id=identity)
        except ServingError:
            with self._lock:
                self.sent.failed += 1
            return
        right = int(classes_of(answer.outputs[self._samples.output])[0]) == target
        with self._lock:
            self.sent.requests += 1
            self.sent.milliseconds.append(1e3 * (time.perf_counter() - started))
            self.sent.right += right
            self.sent.versions[answer.version] = self.sent.versions.get(answer.version, 0) + 1
            if self._delay is not None:
                self._waiting.append((time.monotonic() + self._delay, Label(request_id=identity, label=target)))

    def tell_all(self) -> None:
        """Wait until every label has been told."""
        while self._waiting:
            self._tell_due()
            time.sleep(_LABEL_SECONDS / 10)

    def _tell(self, ended: threading.Event) -> None:
        while not ended.wait(_LABEL_SECONDS):
            self._tell_due()

    def _tell_due(self) -> None:
        due = []
        with self._lock:
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                due.append(self._waiting.popleft())
        if not due:
            return
        try:
            added = ServiceClient(self._settings).add_labels(self._samples.model, [label for _, label in due])
        except ServingError:
            with self._lock:
                # Labels may come late, but they must come.
                self._waiting.extendleft(reversed(due))
            return
        with self._lock:
            self.sent.labels += added.new
