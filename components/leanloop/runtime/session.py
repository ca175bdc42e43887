"""What every runtime offers: open a model's files, answer inputs, and a prepared call to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from leanloop.bundle import Arrays, Bundle, Split
from leanloop.core.contracts import ModelFiles
from leanloop.core.registry import Registry


class Session(Protocol):
    """A loaded model."""

    description: dict[str, str]
    """What the runtime really uses, read back from it: precision, threads, version."""

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for one batch, by name."""

    def bound(self, inputs: Arrays) -> Callable[[], object]:
        """A call without arguments that computes this batch again: what is timed.

        Inputs are handed over once, here, so that a call holds the runtime's own work and no conversion. What the
        call returns means nothing.
        """

    def close(self) -> None:
        """Free the model."""


class OpenSession(Protocol):
    """How a runtime opens a model; one is registered per runtime."""

    def __call__(
        self, model: ModelFiles, folder: Path, *, threads: int, bundle: Bundle | None, batch_sizes: Sequence[int]
    ) -> Session:
        """Open ``folder / model.main`` on ``threads`` CPU threads; see `open_session`."""


RUNTIMES: Registry[OpenSession] = Registry("runtime")


def open_session(
    model: ModelFiles, folder: Path, *, threads: int, bundle: Bundle | None = None, batch_sizes: Sequence[int] = ()
) -> Session:
    """Load a model into its runtime.

    Args:
        model: Which files, for which runtime, with which hints.
        folder: The folder that the files' names are relative to.
        threads: CPU threads that one call may use.
        bundle: The owner's bundle; the ``pytorch`` runtime builds the module from its code.
        batch_sizes: Sizes to prepare for, where a runtime is faster when it knows them (OpenVINO). `Session.bound`
            prepares for its own batch; other sizes work too.

    Raises:
        UnsupportedError: The runtime is not installed, or cannot run what is asked for on this machine.
    """
    return RUNTIMES[model.runtime](model, folder, threads=threads, bundle=bundle, batch_sizes=batch_sizes)


def answers_of(
    model: ModelFiles,
    folder: Path,
    split: Split,
    *,
    threads: int,
    bundle: Bundle | None = None,
    batch_size: int = 256,
    outputs: Sequence[str] | None = None,
) -> Arrays:
    """Open a model, ask it about a whole split, and close it; see `open_session` and `predict`."""
    with closing(open_session(model, folder, threads=threads, bundle=bundle)) as session:
        return predict(session, split, batch_size=batch_size, outputs=outputs)


def predict(session: Session, split: Split, *, batch_size: int = 256, outputs: Sequence[str] | None = None) -> Arrays:
    """Outputs on a whole split.

    Args:
        session: A loaded model.
        split: The samples.
        batch_size: Samples per call; the last call may hold fewer.
        outputs: Names to keep; None keeps all.

    Returns:
        By output name, [samples, ...].
    """
    parts = [session.run(batch.inputs) for batch in split.batches(batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs or parts[0]}
