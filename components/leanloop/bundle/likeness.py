"""Old samples made to look like fresh ones, with the labels that they have.

A few thousand fresh labels teach less than the owner's many, so these are taken over: old samples are moved by what the
mean has changed, and along the principal axes of the old ones detail is taken away, or noise added, until the variances
are those of the fresh ones. With the means ``m`` and ``m'`` and the variances ``a_i`` along axis ``i``::

    x_i -> clip(t_i (x_i - m_i) + m'_i + sqrt(w + e_i) N(0, 1))        0 <= t_i <= 1,  w >= 0,  e_i >= 0

Where the fresh ones vary less, detail is gone; where they vary more, that is not the old content stretched but
something new, and comes as noise. So noise, contrast and brightness are met. What moves the content, as a turned camera
does, is not: where a `leanloop.bundle.view` explains it, old samples are seen through that first. Whoever uses a
likeness must see that a model finds its samples about as hard as the fresh ones (see `leanloop.optimize.likeness`).

Two things keep the few fresh samples from being read too closely. The variance of one axis is known to some per cent
only, which along an axis of much content is far more than the noise that is looked for: white noise ``w`` is read from
the median axis of little content, and an axis gets a ``t_i`` or an ``e_i`` of its own only where it differs by
`_SURE` standard errors. And what left the range of the inputs was cut off there, which shrinks noise and moves means:
``m'`` and ``w`` are those with which look-alikes agree with the fresh samples *after* they are clipped likewise.

The whole covariance of the fresh samples instead of its diagonal in these axes would be the transport between two
Gaussians. It has d^2 numbers to estimate, not d: from 2,000 samples of 784 numbers it makes look-alikes of an
unshifted world that cost a classifier 22 points, against 1 for this one.

Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982, for matrices that
commute; moving labelled samples onto another world's covariance to train there: Sun, Feng, Saenko, "Return of
Frustratingly Easy Domain Adaptation", AAAI 2016.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from leanloop.bundle.view import View

MOST_NUMBERS = 1_024
"""Per sample: its principal axes have the square."""

OLD_PER_NUMBER = 2
"""Fewer old samples tell too little of their axes."""

LEAST_FRESH = 256
"""Fewer fresh samples tell too little of a variance: it is off by a tenth then."""

_SURE = 3.0
"""Standard errors by which an axis must differ."""

_TINY = 1e-12
"""Stands for a variance of nothing where one is divided by."""

_ROUNDS = 6
"""Of the fit through the clipping: later ones change white noise by less than a per cent."""

_CLIPPED = 4_000
"""Old samples that are clipped to see what that does to means and variances."""


@dataclass(frozen=True)
class Likeness:
    """How old samples become look-alikes of fresh ones; a sample is flattened to d numbers.

    Attributes:
        old_mean: [d].
        fresh_mean: Before clipping, [d].
        axes: Principal axes of the old samples as columns, those of least content first, [d, d].
        scale: What stays of the old content along each axis, 0 to 1, [d].
        noise: Standard deviation of what is new along each axis, before clipping, [d].
        limits: Least and greatest number of the fresh samples, [2].
        view: What old samples are seen through first, so that the old mean and axes are of what is seen; None as is.
    """

    old_mean: np.ndarray
    fresh_mean: np.ndarray
    axes: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    limits: np.ndarray
    view: View | None = None

    @staticmethod
    def fit(old: np.ndarray, fresh: np.ndarray, view: View | None = None) -> Likeness:
        """The way from old samples to fresh ones.

        Args:
            old: [n, ...].
            fresh: [m, ...]; of the same classes in the same shares.
            view: What the old ones are seen through.
        """
        if view is not None:
            return replace(Likeness.fit(view.apply(old), fresh), view=view)
        before, after = (values.reshape(len(values), -1).astype(np.float64) for values in (old, fresh))
        # Axes lie where their own samples vary most: only others tell how much there is along them.
        ours, others = np.array_split(before, 2)
        axes = np.linalg.eigh(np.cov(ours.T))[1]
        have, squares = _along(others, axes).var(0), _along(after, axes) ** 2
        want, error = squares.mean(0), squares.std(0) / np.sqrt(len(after))
        limits, quiet = np.array([after.min(), after.max()]), slice(0, max(1, len(have) // 2))
        mean, moved, new = before.mean(0), after.mean(0) - before.mean(0), want - have

        def draft(shift: np.ndarray, scale: np.ndarray, noise: np.ndarray) -> Likeness:
            return Likeness(
                old_mean=mean.astype(np.float32),
                fresh_mean=(mean + shift).astype(np.float32),
                axes=axes.astype(np.float32),
                scale=scale.astype(np.float32),
                noise=np.sqrt(noise).astype(np.float32),
                limits=limits.astype(np.float32),
            )

        some, all_of_it = others[:_CLIPPED], np.ones(len(have))
        content = _along(some, axes).var(0)

        def changes(found: Likeness, seed: int) -> tuple[np.ndarray, np.ndarray]:
            """What it does to the mean, [d], and to the variance along each axis, [d]."""
            alike = found.apply(some, seed)
            return alike.mean(0) - some.mean(0), _along(alike, axes).var(0) - content

        typical = float(np.median(new[quiet]))
        shift, white = moved, max(0.0, typical)
        for number in range(_ROUNDS):
            has_moved, gained = changes(draft(shift, all_of_it, white * all_of_it), number)
            shift = shift + moved - has_moved
            if white > 0:
                white *= float(np.clip(typical / max(np.median(gained[quiet]), _TINY), 0.5, 2.0))
        _, gained = changes(draft(shift, all_of_it, white * all_of_it), _ROUNDS)
        missing = new - gained
        taken = np.where(missing < -_SURE * error, -missing, 0.0)
        scale = np.sqrt(np.clip(1 - taken / np.maximum(have, _TINY), 0, 1))
        return draft(shift, scale, white + np.where(missing > _SURE * error, missing, 0.0))

    def clear(self) -> Likeness:
        """The same without noise and with all detail: what is left is the view and what moved the mean.

        A world that is clean where it shows nothing, as a black background, is so for a network, too, and a little
        noise that the fit reads into it is enough to mislead one.
        """
        return replace(self, scale=np.ones_like(self.scale), noise=np.zeros_like(self.noise))

    def apply(self, values: np.ndarray, seed: int) -> np.ndarray:
        """Look-alikes of fresh samples, one per old one, in their shape and type.

        Args:
            values: Old samples, [n, ...].
            seed: Of the noise.
        """
        seen = values if self.view is None else self.view.apply(values)
        flat = seen.reshape(len(values), -1).astype(np.float32)
        drawn = np.random.default_rng(seed).standard_normal(flat.shape, np.float32)
        along = ((flat - self.old_mean) @ self.axes) * self.scale + drawn * self.noise
        moved: np.ndarray = np.clip(along @ self.axes.T + self.fresh_mean, *self.limits)
        return moved.reshape(values.shape).astype(values.dtype)

    def save(self, path: Path) -> None:
        """Write it as ``.npz``."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self.view is not None:
            arrays |= {"view": self.view.numbers, "view_outside": np.float64(self.view.outside)}
        np.savez(path, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: Path) -> Likeness:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            view = View(archive["view"], float(archive["view_outside"])) if "view" in archive else None
            return Likeness(**{name: archive[name] for name in _ARRAYS}, view=view)


_ARRAYS = tuple(field.name for field in fields(Likeness) if field.name != "view")


def _along(values: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Coordinates about the mean, [n, d]."""
    along: np.ndarray = (values - values.mean(0)) @ axes
    return along
