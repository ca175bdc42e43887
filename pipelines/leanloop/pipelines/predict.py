"""The served model on the test split, beside the very artifact that it was made from."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from leanloop.bundle import Arrays, Bundle, Split, classes_of
from leanloop.core.files import atomic_file
from leanloop.core.releases import fetch_release, latest_release
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.runtime import open_session
from leanloop.runtime import predict as predict_in_process
from leanloop.serving import stack

NEAR_TIE = 0.02
"""Two best scores that differ by less, relative to the largest, may change places when a batch is made up otherwise."""


@dataclass(frozen=True)
class Difference:
    """A sample whose served class is not the artifact's, with the artifact's margin between its two best scores."""

    sample: int
    served: int
    local: int
    margin: float


@dataclass(frozen=True)
class Comparison:
    """Served answers against in-process ones.

    Attributes:
        different: Samples whose answers differ: other classes, or for regression values beyond tolerance.
        near_ties: Those of them where the artifact's own margin is next to nothing.
    """

    model: str
    version: int
    batch_size: int
    samples: int
    metric_name: str
    served_metric: float | None
    local_metric: float | None
    different: int
    largest_difference: float
    near_ties: tuple[Difference, ...]


def predict_test(
    settings: Settings,
    *,
    protocol: Literal["grpc", "http"],
    batch_size: int | None = None,
    limit: int | None = None,
    clients: int = 1,
    out: Path | None = None,
) -> Comparison:
    """Send the test split to Triton, and to the artifact of the newest release in this process.

    Args:
        settings: With absolute paths; ``serving`` names the server, ``model.name`` the model.
        protocol: How to talk to Triton.
        batch_size: Samples per request, and per call in-process; None: as many as the server takes.
        limit: Only the first so many samples.
        clients: Concurrent requests; more than one lets Triton's dynamic batching mix them.
        out: Where to write the served answers, as ``.npz``.

    Raises:
        ServingError: The server does not answer.
        StoreError: The model was never released, or the release is gone from the store.
    """
    workspace = Workspace(settings)
    release = latest_release(workspace.store, settings.model.name)
    batch_size = batch_size or release.choice.max_batch_size
    with tempfile.TemporaryDirectory(prefix="leanloop-predict-") as name:
        bundle_folder, artifact, folder = fetch_release(workspace.store, release, Path(name))
        bundle = Bundle(bundle_folder)
        test = bundle.split("test").take(slice(0, limit))
        served = _ask(settings, workspace, release.model, test, protocol, batch_size, clients)
        session = open_session(artifact.model, folder, threads=release.choice.threads, bundle=bundle)
        try:
            local = predict_in_process(session, test, batch_size=batch_size)
        finally:
            session.close()
        # Triton sends one number per sample as [samples, 1].
        served = {key: values.reshape(local[key].shape) for key, values in served.items()}
        if out is not None:
            with atomic_file(out) as temporary, temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **served)
        comparable = not bundle.metric.needs_labels or test.targets is not None
        first = bundle.manifest.outputs[0]
        different, ties = _differences(served[first], local[first], bundle.manifest.task == "classification")
        return Comparison(
            model=release.model,
            version=release.version,
            batch_size=batch_size,
            samples=len(test),
            metric_name=bundle.metric.name,
            served_metric=bundle.score(served, test, local) if comparable else None,
            local_metric=bundle.score(local, test, local) if comparable else None,
            different=different,
            largest_difference=max(float(np.abs(served[key] - local[key]).max()) for key in served),
            near_ties=ties,
        )


def _ask(
    settings: Settings,
    workspace: Workspace,
    model: str,
    test: Split,
    protocol: Literal["grpc", "http"],
    batch_size: int,
    clients: int,
) -> Arrays:
    # Each client takes every n-th batch, so that neighbours are in flight together.
    batches = list(test.batches(batch_size))
    shares = [batches[number::clients] for number in range(min(clients, len(batches)))]

    def ask(share: list[Split]) -> list[Arrays]:
        with stack.connect(settings.serving, workspace.serving, protocol) as client:
            return [client.infer(model, batch.inputs) for batch in share]

    with ThreadPoolExecutor(len(shares)) as pool:
        answers = list(pool.map(ask, shares))
    ordered = [answers[index % len(shares)][index // len(shares)] for index in range(len(batches))]
    return {name: np.concatenate([answer[name] for answer in ordered]) for name in ordered[0]}


def _differences(served: np.ndarray, local: np.ndarray, classification: bool) -> tuple[int, tuple[Difference, ...]]:
    if not classification:
        return int((~np.isclose(served, local, rtol=1e-2, atol=1e-3)).any(axis=tuple(range(1, served.ndim))).sum()), ()
    served_classes, local_classes = classes_of(served), classes_of(local)
    rows = np.flatnonzero(served_classes != local_classes)
    ties = []
    for row in rows:
        best = np.sort(local[row].reshape(-1))[::-1]
        margin = (
            float(best[0] - best[1]) / max(float(np.abs(best).max()), 1e-9) if len(best) > 1 else abs(float(best[0]))
        )
        if margin < NEAR_TIE:
            ties.append(Difference(int(row), int(served_classes[row]), int(local_classes[row]), margin))
    return len(rows), tuple(ties)
