"""Old samples made to look like fresh ones, with the labels that they have.

A few thousand fresh labels teach less than the owner's many, so these are taken over: old samples are moved onto the
mean of the fresh ones and, along each principal axis of the old ones, onto the variance of the fresh ones. With the
means ``m`` and ``m'`` and the variances ``a_i`` and ``b_i`` along axis ``i``::

    x_i -> t_i (x_i - m_i) + m'_i + e_i        t_i = min(1, sqrt(b_i / a_i)),  var e_i = b_i - t_i^2 a_i

Where the fresh ones vary less, detail is taken away; where they vary more, that is not the old content stretched but
something new, and comes as Gaussian noise. So noise, blur, contrast and brightness are met; a rotation is not, and
whoever uses a likeness must see that a model finds its samples about as hard as the fresh ones (see
`leanloop.optimize.likeness`).

The whole covariance of the fresh samples instead of its diagonal in these axes would be the transport between two
Gaussians. It has d^2 numbers to estimate, not d: from 2,000 samples of 784 numbers it makes look-alikes of an
unshifted world that cost a classifier 22 points, against 5 for this one.

Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982, for matrices that
commute; moving labelled samples onto another world's covariance to train there: Sun, Feng, Saenko, "Return of
Frustratingly Easy Domain Adaptation", AAAI 2016.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

MOST_NUMBERS = 1_024
"""Per sample: its principal axes have the square."""

OLD_PER_NUMBER = 2
"""Fewer old samples tell too little of their axes."""

LEAST_FRESH = 256
"""Fewer fresh samples tell too little of a variance: it is off by a tenth then."""

_LEAST_VARIANCE = 1e-3
"""Of the axes' mean variance: along axes with less there is no content to take detail from."""


@dataclass(frozen=True)
class Likeness:
    """How old samples become look-alikes of fresh ones; a sample is flattened to d numbers.

    Attributes:
        old_mean: [d].
        fresh_mean: [d].
        axes: Principal axes of the old samples as columns, [d, d].
        scale: What stays of the old content along each axis, 0 to 1, [d].
        noise: Standard deviation of what is new along each axis, [d].
        limits: Least and greatest number of the fresh samples, [2].
    """

    old_mean: np.ndarray
    fresh_mean: np.ndarray
    axes: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    limits: np.ndarray

    @staticmethod
    def fit(old: np.ndarray, fresh: np.ndarray) -> Likeness:
        """The way from old samples to fresh ones.

        Args:
            old: [n, ...].
            fresh: [m, ...]; of the same classes in the same shares.
        """
        before, after = (values.reshape(len(values), -1).astype(np.float64) for values in (old, fresh))
        have, axes = np.linalg.eigh(np.cov(before.T))
        want = ((after - after.mean(0)) @ axes).var(0)
        floor = _LEAST_VARIANCE * have.mean()
        scale = np.where(have < floor, 1.0, np.minimum(1.0, np.sqrt(want / np.maximum(have, floor))))
        noise = np.sqrt(np.maximum(want - scale**2 * have, 0.0))
        numbers = (before.mean(0), after.mean(0), axes, scale, noise, np.array([after.min(), after.max()]))
        return Likeness(*(values.astype(np.float32) for values in numbers))

    def apply(self, values: np.ndarray, seed: int) -> np.ndarray:
        """Look-alikes of fresh samples, one per old one, in their shape and type.

        Args:
            values: Old samples, [n, ...].
            seed: Of the noise.
        """
        flat = values.reshape(len(values), -1).astype(np.float32)
        drawn = np.random.default_rng(seed).standard_normal(flat.shape, np.float32)
        along = ((flat - self.old_mean) @ self.axes) * self.scale + drawn * self.noise
        moved: np.ndarray = np.clip(along @ self.axes.T + self.fresh_mean, *self.limits)
        return moved.reshape(values.shape).astype(values.dtype)

    def save(self, path: Path) -> None:
        """Write it as ``.npz``."""
        np.savez(path, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: Path) -> Likeness:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            return Likeness(**{field.name: archive[field.name] for field in fields(Likeness)})
