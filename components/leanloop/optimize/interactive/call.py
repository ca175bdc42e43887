"""`optimize`: from a live module to its smallest and fastest version, in one call."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from torch import nn

from leanloop.core.child import run_limited
from leanloop.core.errors import SettingsError
from leanloop.core.following import following
from leanloop.core.hardware import usable_cores
from leanloop.core.settings import Objective, OptimizeSettings, ServingSettings
from leanloop.optimize.interactive.project import Splits, write_project
from leanloop.optimize.interactive.result import PROJECT, Result
from leanloop.optimize.interactive.samples import Loader, gather, input_names

_MOST_WORKERS = 2
_GRACE_SECONDS = 4 * 3600.0


def optimize(
    model: nn.Module,
    train: Loader | None,
    validation: Loader,
    *,
    test: Loader | None = None,
    calibration: Loader | None = None,
    metric: str | Callable[..., float] | None = None,
    max_accuracy_drop: float = 0.01,
    minimise: Objective = "latency_p50",
    batch_size: int = 1,
    minutes: float = 5.0,
    techniques: Sequence[str] | None = None,
    student: Callable[..., nn.Module] | None = None,
    student_parameters: Mapping[str, Sequence[Any]] | None = None,
    name: str = "model",
    settings: Mapping[str, Any] | None = None,
    workspace: str | Path = ".leanloop",
    progress: bool = True,
) -> Result:
    """Search for the smallest and fastest version of a trained module that keeps its accuracy, and measure it here.

    The module is left as it is. Its classes may live in a notebook or in files of yours. All work is done in child
    processes; nothing is served. What was done is kept in the workspace: the same call on the same module takes
    finished trainings from there.

    Args:
        model: Trained; its outputs' first axis counts samples, as its inputs' does.
        train: Samples to fine-tune on, read once; with None only post-training techniques are tried.
        validation: Labelled samples that candidates are judged on.
        test: The winner is scored on these once, at the end; without it half of validation is set aside for that.
        calibration: Samples that quantisation looks at; without it 512 of train (or of validation).
        metric: ``accuracy``, ``f1``, ``rmse``, ``agreement``, ``cosine``, or a function ``(first output, targets) ->
            float`` of arrays, higher is better. Without it ``accuracy`` for whole-number labels, ``rmse`` for other
            targets, and ``agreement`` with the original where there are none.
        max_accuracy_drop: How much of the original's metric may be lost, relative: 0.01 keeps 99 %.
        minimise: ``latency_p50``, ``latency_p99``, ``size`` or ``cost``.
        batch_size: That latency is measured and minimised at.
        minutes: For the search; analysis and the final measurements come on top.
        techniques: Names of registered techniques; without it the settings' default, and ``student`` where one is
            given.
        student: Returns a smaller untrained network, to be taught by the original.
        student_parameters: Values to try for its keyword arguments, the largest network first.
        name: Of the model, in reports and file names.
        settings: Any other of the settings by dotted key, such as ``{"goal.threads": 2}``.
        workspace: Folder that everything is kept in.
        progress: Show a bar per step.

    Returns:
        What came of it; see `Result`.

    Raises:
        LeanloopError: What is wrong with the module, the data or a setting, or what failed, with what to do.
    """
    names = input_names(model)
    splits = Splits(
        train=None if train is None else gather(train, names, "train"),
        calibration=None if calibration is None else gather(calibration, names, "calibration"),
        validation=gather(validation, names, "validation"),
        test=None if test is None else gather(test, names, "test"),
    )
    if student_parameters and student is None:
        raise SettingsError("There are parameters of a student, and no student.", fix="Give student=, a function.")
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = Path(workspace).resolve() / "interactive" / f"{name}-{stamp}-{secrets.token_hex(2)}"
    search: dict[str, Any] = {"budget_minutes": minutes, "workers": min(_MOST_WORKERS, usable_cores())}
    if chosen := _techniques(techniques, student):
        search["techniques"] = list(chosen)
    found = write_project(
        folder / PROJECT,
        model,
        splits,
        name=name,
        metric=metric,
        student=student,
        student_parameters=student_parameters or {},
        choices={
            "goal": {"minimise": minimise, "batch_size": batch_size, "max_accuracy_drop": max_accuracy_drop},
            "optimize": search,
            "benchmark": {"batch_sizes": [batch_size]},
            # Nothing is served here, but a project that is served later must take the batches that it was made for.
            "serving": {"max_batch_size": max(batch_size, ServingSettings().max_batch_size)},
            "workspace": str(Path(workspace).resolve()),
        },
        overrides=settings or {},
    )
    events = folder / "events.jsonl"
    arguments = {
        "settings": found.to_json(),
        "project": str(folder / PROJECT),
        "folder": str(folder),
        "events": str(events),
    }
    with following(events, Console(quiet=not progress)):
        # By name, since what this package stands on knows nothing of whole runs: a run is another process anyway.
        run_limited(
            "leanloop.pipelines.offline:run_offline",
            arguments,
            folder=folder / "process",
            timeout_seconds=60 * found.optimize.budget_minutes + _GRACE_SECONDS,
            memory_bytes=psutil.virtual_memory().total,
        )
    return Result(folder)


def _techniques(given: Sequence[str] | None, student: Callable[..., nn.Module] | None) -> tuple[str, ...]:
    """The techniques to write into the settings; none leaves the default."""
    if given is not None:
        return tuple(given)
    if student is None:
        return ()
    return ("student", *OptimizeSettings().techniques)
