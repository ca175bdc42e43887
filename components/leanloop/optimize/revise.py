"""A new revision of a bundle from live samples: what was learnt stays, what is new is added, and a gate decides.

With labels the model is fine-tuned on old and fresh samples together. On fresh samples the labels alone teach; on old
ones the parent's own answers teach beside them, so that nothing is forgotten (learning without forgetting; Li and
Hoiem, "Learning without Forgetting", 2016, with old samples at hand instead of none). Where old samples can be made to
look like fresh ones, some are, and the parent's answers to the clean sample teach. The revision must be really better
than its parent on fresh samples that it did not see, and at most a point worse on the golden ones.

Without labels, or for a model whose weights cannot be trained, the weights stay. The parent's answers are then the
fresh samples' targets: calibration, distillation and the choice among candidates look at what is asked now.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from leanloop.benchmark import noninferiority
from leanloop.bundle import Arrays, Bundle, Split, classes_of, seal, tensors
from leanloop.core.child import Child
from leanloop.core.contracts import Aim, BundleManifest
from leanloop.core.errors import DataError, RefusedError, UnsupportedError
from leanloop.core.events import emit
from leanloop.core.files import atomic_folder
from leanloop.core.settings import Settings
from leanloop.optimize.likeness import find_likeness
from leanloop.optimize.techniques.blending import blend
from leanloop.optimize.techniques.distillation import DistillationConfig, quick_answers, taught_loss, teacher_answers
from leanloop.optimize.techniques.training import normalises_layers, train
from leanloop.runtime import original_outputs

LIKENESS = "likeness.npz"
"""In a bundle: how old samples are made to look like fresh ones."""

LEAST_FRESH = 64
"""Fewer samples say nothing about what is asked now."""

_HELD_OUT = 1 / 4
_CALIBRATION = 512
_KEPT_FILES = 4
_MOST_OLD = 24_000
"""Of the old samples; more are not passed in the time that there is."""

_MOST_EPOCHS = 3
_LEAST_STEPS = 300
"""Fewer leave the weights worse than they were: a budget that is too short for these is overrun."""

_TIMED_STEPS = 8


@dataclass(frozen=True)
class Fresh:
    """Live samples of a snapshot.

    Attributes:
        inputs: By input name, [n, ...].
        labels: [n]; NaN where unknown.
        requests: Request ids, [n].
    """

    inputs: Arrays
    labels: np.ndarray
    requests: np.ndarray

    def take(self, rows: np.ndarray) -> Fresh:
        """Some of them."""
        inputs = {name: values[rows] for name, values in self.inputs.items()}
        return Fresh(inputs, self.labels[rows], self.requests[rows])


def revise(
    parent: Bundle,
    fresh: Fresh,
    destination: Path,
    *,
    aim: Aim,
    settings: Settings,
    seconds: float,
    threads: int,
    student: Path | None = None,
    child: Child | None = None,
) -> BundleManifest:
    """Write a new revision of a bundle.

    Args:
        parent: The bundle of the release that serves.
        fresh: Live samples.
        destination: Folder to make.
        aim: ``accuracy`` learns from the labels; any other takes the parent's answers as right.
        settings: The seed, how many labels are needed, and which files an ``.onnx`` may read.
        seconds: What the fine-tuning may take, about.
        threads: CPU threads.
        student: Checkpoint of what was made from the parent and serves, for its training to go on; None without one.
        child: The process to probe the new bundle in; one of its own without it.

    Raises:
        DataError: There are too few samples or labels.
        UnsupportedError: Labels are to be learnt, and the metric does not know them.
        RefusedError: The fine-tuned model does not pass the gate.
    """
    learns = aim == "accuracy"
    if learns and not parent.metric.needs_labels:
        raise UnsupportedError("The metric does not look at labels.", where="metric", value=parent.metric.name)
    if learns:
        fresh = fresh.take(np.isfinite(fresh.labels))
    needed = settings.monitoring.trigger.fresh_labels if learns else LEAST_FRESH
    if len(fresh.requests) < needed:
        raise DataError(
            f"There are too few fresh {'labels' if learns else 'samples'} for a revision.",
            where="monitoring.trigger.fresh_labels" if learns else "",
            value=len(fresh.requests),
            fix=f"It takes {needed}: wait for more.",
        )
    manifest = parent.manifest
    with atomic_folder(destination) as folder:
        shutil.copytree(parent.folder, folder, ignore=partial(_not_handed_on, parent), dirs_exist_ok=True)
        if student is not None:
            shutil.copytree(student, folder / parent.student.name)
        file = f"fresh-{1 + max((int(name[6:-4]) for name in manifest.fresh), default=0)}.npz"
        kept = manifest.fresh[-(_KEPT_FILES - 1) :]
        for name in manifest.fresh[: -(_KEPT_FILES - 1)]:
            (folder / name).unlink()
        splits = _splits(parent, fresh, learns, settings.optimize.seed)
        np.savez(folder / file, allow_pickle=False, **_arrays(splits))
        trains = learns and manifest.kind == "factory"
        likeness = find_likeness(parent, splits["train"], settings.optimize.seed, threads=threads) if trains else None
        if likeness is not None:
            likeness.save(folder / LIKENESS)
        draft = manifest.model_copy(
            update={
                "parent": manifest.digest,
                "fresh": (*kept, file),
                "likeness": LIKENESS if likeness else None,
                "splits": {},
                "digest": "",
            }
        )
        draft.save(folder)
        if trains:
            weights = _learn(parent, Bundle(folder), folder, settings.optimize.seed, seconds, threads)
            draft = draft.model_copy(update={"weights": weights, "weights_bytes": (folder / weights).stat().st_size})
        return seal(folder, draft, child, settings.model.external_data)


def _not_handed_on(parent: Bundle, folder: str, names: list[str]) -> set[str]:
    """Of the parent's files, those that every bundle has for itself."""
    own = {BundleManifest.filename, LIKENESS, parent.student.name} if Path(folder) == parent.folder else set()
    return {name for name in names if name in own or name == "__pycache__"}


def _splits(parent: Bundle, fresh: Fresh, labelled: bool, seed: int) -> dict[str, Split]:
    """What each split gets of the fresh samples; all samples of one request stay together."""
    requests, members = np.unique(fresh.requests, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(requests))
    held_out = (drawn < _HELD_OUT * len(requests))[members]
    learnt = np.flatnonzero(~held_out)
    rows = {"train": learnt, "calibration": learnt[:_CALIBRATION], "validation": np.flatnonzero(held_out)}
    targets = _targets(parent, fresh, labelled)
    return {name: Split(name, fresh.inputs, targets).take(some) for name, some in rows.items()}


def _arrays(splits: Mapping[str, Split]) -> Arrays:
    """Arrays of a file of fresh samples."""
    arrays = {f"{name}/{key}": values for name, split in splits.items() for key, values in split.inputs.items()}
    return arrays | {f"{name}/target": split.targets for name, split in splits.items() if split.targets is not None}


def _targets(parent: Bundle, fresh: Fresh, labelled: bool) -> np.ndarray | None:
    """Labels, or the parent's answers, as the owner's targets are; None when the owner has none."""
    like = parent.split("validation").targets
    if like is None:
        return None
    if labelled:
        values = fresh.labels
    else:
        answers = original_outputs(parent, Split("fresh", fresh.inputs, None))[parent.manifest.outputs[0]]
        values = classes_of(answers) if parent.manifest.task == "classification" else answers
    return values.reshape(len(fresh.requests), *like.shape[1:]).astype(like.dtype)


def _learn(parent: Bundle, revised: Bundle, folder: Path, seed: int, seconds: float, threads: int) -> str:
    """Fine-tune, pass the gate, and write the weights; returns their file's name."""
    module = parent.module()
    before = copy.deepcopy(module)
    _fine_tune(module, parent, revised, seed, seconds, threads)
    module = _blended(before, module, revised, threads)
    validation, recent = revised.split("validation"), revised.fresh_rows("validation")
    assert validation.targets is not None
    first = parent.manifest.outputs[0]
    old, new = (parent.predict(one, validation)[first] for one in (before, module))
    found = {
        f"{part}_{when}": parent.metric.score(outputs[rows], validation.targets[rows])
        for part, rows in (("golden", ~recent), ("recent", recent))
        for when, outputs in (("before", old), ("after", new))
        if rows.any()
    }
    emit("fine_tuned", **found)
    _gate(parent, old, new, validation.targets, recent, found)
    (folder / parent.manifest.weights).unlink()
    name = f"{Path(parent.manifest.weights).stem}.safetensors"
    state = {key: tensor.detach().clone().contiguous() for key, tensor in module.state_dict().items()}
    safetensors.torch.save_file(state, folder / name)
    return name


def _blended(before: nn.Module, after: nn.Module, revised: Bundle, threads: int) -> nn.Module:
    """The fine-tuned model, averaged with what it was so that it forgets less."""
    validation, first = revised.split("validation"), revised.manifest.outputs[0]
    assert validation.targets is not None
    found, _ = blend(
        before,
        after,
        lambda one: quick_answers(revised, one, validation, threads)[first],
        validation.targets,
        revised.fresh_rows("validation"),
        revised.metric,
    )
    return found


def _gate(
    parent: Bundle, old: np.ndarray, new: np.ndarray, targets: np.ndarray, recent: np.ndarray, found: dict[str, float]
) -> None:
    metric, told = parent.metric, ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items())
    gained = noninferiority(metric, old[recent], new[recent], targets[recent], margin=0.0)
    if gained.upper_bound >= 0:
        raise RefusedError(
            "The fine-tuned model is not really better on recent samples.",
            where=f"{int(recent.sum())} recent samples held out",
            value=told,
            fix="The base model needs a person: look at the labels, and train it anew.",
        )
    golden = ~recent
    if golden.any() and metric.drop(found["golden_before"], found["golden_after"]) > metric.point(
        found["golden_before"]
    ):
        raise RefusedError(
            "The fine-tuned model forgets more than a point of what it knew.",
            where=f"{int(golden.sum())} golden samples",
            value=told,
            fix="The base model needs a person: train it anew on old and new data.",
        )


def _fine_tune(module: nn.Module, parent: Bundle, revised: Bundle, seed: int, seconds: float, threads: int) -> None:
    """Train in place on the mix; the weights at the end of the one cycle count.

    To keep those of the best pass instead would take samples away from training, and fresh ones are too few to tell one
    pass from another: two hundred of them choose by chance.
    """
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    split, fresh = revised.split("train"), revised.fresh_rows("train")
    old = order.permutation(np.flatnonzero(~fresh))[:_MOST_OLD]
    rows = order.permutation(np.concatenate([np.flatnonzero(fresh), old]))
    outputs = teacher_answers(parent, revised.clean_split("train").take(rows), threads)
    again = revised.training_rows(rows)
    part, is_fresh = split.take(rows[again]), torch.from_numpy(fresh[rows[again]])
    teacher = [outputs[name][again] for name in parent.manifest.outputs]
    config = _config(module, parent, seed)
    taught = taught_loss(part, teacher, config, parent.manifest.task)
    told = taught_loss(part, teacher, replace(config, alpha=1.0), parent.manifest.task)

    def loss_of(outputs: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        new, total = is_fresh[rows], torch.zeros(())
        for some, loss in ((~new, taught), (new, told)):
            if some.any():
                total = total + some.sum() / len(rows) * loss([values[some] for values in outputs], rows[some])
        return total

    inputs = tensors(part.inputs)
    few = [values[: _TIMED_STEPS * config.batch_size] for values in inputs]
    trial = replace(config, epochs=1)
    pace = train(copy.deepcopy(module), few, loss_of, trial, np.random.default_rng(seed), threads=threads)
    least = _LEAST_STEPS * config.batch_size
    passed = max(least, min(_MOST_EPOCHS * len(part), int(seconds / pace)))
    schedule = replace(config, epochs=math.ceil(passed / len(part)))
    # They lie in random order, so that a part of them is drawn at random.
    some = [values[: math.ceil(passed / schedule.epochs)] for values in inputs]
    train(module, some, loss_of, schedule, order, threads=threads)


def _config(module: nn.Module, parent: Bundle, seed: int) -> DistillationConfig:
    # Half a usual fine-tuning's rate: the weights are good already.
    if parent.manifest.task == "regression" or normalises_layers(module):
        return DistillationConfig(optimizer="adamw", learning_rate=5e-4, weight_decay=0.01, alpha=0.5, seed=seed)
    return DistillationConfig(learning_rate=0.02, alpha=0.3, temperature=2.0, seed=seed)
