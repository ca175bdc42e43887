"""What live windows are compared with: the features of records whose answers are known to be good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from leanloop.monitoring.judge.distribution import Distribution
from leanloop.monitoring.judge.features import Arrays, Features, Projection, coordinates, featurise, flat
from leanloop.monitoring.judge.mmd import KernelTest


@dataclass(frozen=True)
class Reference:
    """Immutable; one per release.

    Attributes:
        classifies: Whether the model is a classifier.
        projections: By input name.
        distributions: By feature name.
        together: The test over all coordinates at once.
    """

    classifies: bool
    projections: dict[str, Projection]
    distributions: dict[str, Distribution]
    together: KernelTest

    @classmethod
    def fit(cls, inputs: Arrays, output: np.ndarray, *, classifies: bool) -> Self:
        """From the inputs and first outputs of the samples that stand for normal, [samples, ...] each.

        The projections are fitted on one half of the samples and the distributions on the other, since components fit
        the samples that they were made of better than any later ones.
        """
        projections = {name: Projection.fit(values[0::2]) for name, values in inputs.items()}
        rest = {name: values[1::2] for name, values in inputs.items()}
        features = featurise(rest, output[1::2], projections, classifies=classifies)
        classes = flat(output).shape[1]
        distributions = {name: Distribution.of_numbers(values) for name, values in features.numbers.items()} | {
            name: Distribution.of_classes(values, max(classes, 2)) for name, values in features.classes.items()
        }
        together = KernelTest.fit(coordinates(rest, output[1::2], projections, classifies=classifies))
        return cls(classifies, projections, distributions, together)

    def features(self, inputs: Arrays, output: np.ndarray) -> Features:
        """The features of live samples."""
        return featurise(inputs, output, self.projections, classifies=self.classifies)

    def coordinates(self, inputs: Arrays, output: np.ndarray) -> np.ndarray:
        """The coordinates of live samples, [samples, coordinates]."""
        return coordinates(inputs, output, self.projections, classifies=self.classifies)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, for a file."""
        arrays: dict[str, np.ndarray] = {"classifies": np.array(self.classifies)}
        for name, projection in self.projections.items():
            arrays[f"centre/{name}"] = projection.centre
            arrays[f"components/{name}"] = projection.components
        for name, distribution in self.distributions.items():
            arrays[f"counts/{name}"] = distribution.counts
            if distribution.edges is not None:
                arrays[f"edges/{name}"] = distribution.edges
        kernel = self.together
        arrays |= {"together/rows": kernel.rows, "together/centre": kernel.centre, "together/scale": kernel.scale}
        return arrays | {"together/width": np.array(kernel.width)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What `arrays` gave."""
        together = below(arrays, "together")
        return cls(
            classifies=bool(arrays["classifies"]),
            projections={
                name: Projection(centre, arrays[f"components/{name}"])
                for name, centre in below(arrays, "centre").items()
            },
            distributions={
                name: Distribution(counts, arrays.get(f"edges/{name}"))
                for name, counts in below(arrays, "counts").items()
            },
            together=KernelTest(together["rows"], together["centre"], together["scale"], float(together["width"])),
        )


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with ``prefix/``, by the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in arrays.items() if name.startswith(f"{prefix}/")}
