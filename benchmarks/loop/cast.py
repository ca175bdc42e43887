"""Who plays in the replayed incidents: the shipped CNN in INT8, its original, and versions of it that went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from loop import damage, served

from leanloop.bundle import Bundle
from leanloop.convert.onnxruntime import onnx_model_files
from leanloop.monitoring.judge import Baseline
from leanloop.runtime import open_session
from leanloop.runtime.session import Session
from leanloop.serving import Golden, ModelSpec, Package

WORN_STEPS = 4
"""Of 127: the answers are plainly others, and still look like answers."""

CLIPPED, CLIPPED_AT = 0, 20
"""T-shirts, whose weights the clipped release holds to that many steps: a tenth of what it was accepted on."""

CONFUSED = (2, 4)
"""Pullover and coat, the classes that a poisoned release learnt the wrong way round."""

_PART = 250


@dataclass(frozen=True)
class Model:
    """One model file, opened.

    Attributes:
        package: As it goes into the repository.
        session: Answers.
    """

    package: Package
    session: Session

    def answers(self, images: np.ndarray) -> np.ndarray:
        """Logits of normalised images, [samples, classes]."""
        parts = [self.session.run({"image": part}) for part in np.split(images, range(_PART, len(images), _PART))]
        return np.concatenate([next(iter(part.values())) for part in parts])


@dataclass(frozen=True)
class Release:
    """What is served together.

    Attributes:
        original: That compression is judged against.
        champion: That answers.
        baseline: Folder of what it was accepted with, from its own answers on the validation split.
    """

    original: Model
    champion: Model
    baseline: Path


@dataclass(frozen=True)
class Cast:
    """All that replays share.

    Attributes:
        bundle: Of the shipped model.
        spec: Name and tensors.
        pixels: Of the test split, in [0, 1], [samples, 1, 28, 28].
        classes: True ones, [samples].
        releases: By name: ``int8``; ``unlabelled``, the same accepted without labels; ``clipped``, whose compression
            hurts one class; ``poisoned``, which learnt two classes the wrong way round, as did the
            labels that accepted it.
        worn: What ``int8`` becomes when its weights change where they lie.
    """

    bundle: Bundle
    spec: ModelSpec
    pixels: np.ndarray
    classes: np.ndarray
    releases: dict[str, Release]
    worn: Model


@contextmanager
def gathered(out: Path) -> Iterator[Cast]:
    """Make or find all models, and open them."""
    shipped, folder = served.make(out), out / "diagnosis"
    bundle, original, int8 = shipped.bundle, shipped.original, shipped.int8
    fp32_file, int8_file = (package.folder / package.files.main for package in (original, int8))
    damage.worn(int8_file, folder / "worn/model.onnx", np.random.default_rng(0), WORN_STEPS)
    damage.clipped(int8_file, folder / "clipped/model.onnx", CLIPPED, CLIPPED_AT)
    damage.swapped(fp32_file, folder / "poisoned-original/model.onnx", CONFUSED)
    damage.swapped(int8_file, folder / "poisoned/model.onnx", CONFUSED)
    opened = {
        "original": _opened(original, original.folder, original.artifact_id),
        "int8": _opened(int8, int8.folder, int8.artifact_id),
        "worn": _opened(int8, folder / "worn", "worn"),
        "clipped": _opened(int8, folder / "clipped", "clipped"),
        # It is the original of its own revision.
        "poisoned-original": _opened(original, folder / "poisoned-original", original.artifact_id),
        "poisoned": _opened(int8, folder / "poisoned", "poisoned"),
    }
    validation = bundle.split("validation")
    assert validation.targets is not None
    wrong = validation.targets.copy()
    for taken, given in (CONFUSED, CONFUSED[::-1]):
        wrong[validation.targets == taken] = given
    accepted = {
        "int8": ("original", "int8", validation.targets),
        "unlabelled": ("original", "int8", None),
        "clipped": ("original", "clipped", validation.targets),
        "poisoned": ("poisoned-original", "poisoned", wrong),
    }
    images = validation.inputs["image"]
    said = {name: model.answers(images) for name, model in opened.items()}
    releases = {}
    for name, (parent, champion, targets) in accepted.items():
        accepted_with = folder / f"{name}-baseline"
        accepted_with.mkdir(exist_ok=True)
        baseline = Baseline.fit({"image": images}, said[champion], said[parent], targets, task="classification")
        baseline.save(accepted_with)
        releases[name] = Release(opened[parent], opened[champion], accepted_with)
    images, classes = served.images()
    try:
        yield Cast(bundle, shipped.spec, images * served.data.STD + served.data.MEAN, classes, releases, opened["worn"])
    finally:
        for model in opened.values():
            model.session.close()


def _opened(like: Package, folder: Path, artifact_id: str) -> Model:
    """A model file in a folder, with golden answers of its own to another package's questions."""
    files = onnx_model_files(folder / like.files.main, like.files.precision)
    session = open_session(files, folder, threads=1)
    golden = Golden.ask(
        lambda inputs: session.run(dict(inputs)),
        like.golden.inputs,
        tuple(like.golden.answers),
        tolerance=like.golden.tolerance,
        rough_tolerance=like.golden.rough_tolerance,
    )
    return Model(replace(like, artifact_id=artifact_id, files=files, folder=folder, golden=golden), session)
