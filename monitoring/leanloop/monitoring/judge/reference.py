"""What live windows are compared with: the features of records whose answers are known to be good."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from leanloop.core.files import atomic_file
from leanloop.monitoring.judge.distribution import Distribution
from leanloop.monitoring.judge.features import Arrays, Features, Projection, featurise


@dataclass(frozen=True)
class Reference:
    """Immutable; one per release.

    Attributes:
        classifies: Whether the model is a classifier.
        projections: By input name.
        distributions: By feature name.
    """

    classifies: bool
    projections: dict[str, Projection]
    distributions: dict[str, Distribution]

    @classmethod
    def fit(cls, inputs: Arrays, output: np.ndarray, *, classifies: bool) -> Self:
        """From the inputs and first outputs of the samples that stand for normal, [samples, ...] each.

        The projections are fitted on one half of the samples and the distributions on the other, since components fit
        the samples that they were made of better than any later ones.
        """
        projections = {name: Projection.fit(values[0::2]) for name, values in inputs.items()}
        rest = {name: values[1::2] for name, values in inputs.items()}
        features = featurise(rest, output[1::2], projections, classifies=classifies)
        classes = output.reshape(len(output), -1).shape[1]
        distributions = {name: Distribution.of_numbers(values) for name, values in features.numbers.items()} | {
            name: Distribution.of_classes(values, max(classes, 2)) for name, values in features.classes.items()
        }
        return cls(classifies, projections, distributions)

    def features(self, inputs: Arrays, output: np.ndarray) -> Features:
        """The features of live samples."""
        return featurise(inputs, output, self.projections, classifies=self.classifies)

    def save(self, path: Path) -> None:
        """Write one ``.npz`` file, whole or not at all."""
        arrays: dict[str, np.ndarray] = {"classifies": np.array(self.classifies)}
        for name, projection in self.projections.items():
            arrays[f"centre/{name}"] = projection.centre
            arrays[f"components/{name}"] = projection.components
        for name, distribution in self.distributions.items():
            arrays[f"counts/{name}"] = distribution.counts
            if distribution.edges is not None:
                arrays[f"edges/{name}"] = distribution.edges
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        named = {prefix: _below(arrays, prefix) for prefix in ("centre", "components", "counts", "edges")}
        return cls(
            classifies=bool(arrays["classifies"]),
            projections={
                name: Projection(centre, named["components"][name]) for name, centre in named["centre"].items()
            },
            distributions={
                name: Distribution(counts, named["edges"].get(name)) for name, counts in named["counts"].items()
            },
        )


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in arrays.items() if name.startswith(f"{prefix}/")}
