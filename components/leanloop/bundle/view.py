"""How a camera sees a known world after it was moved: turned, shifted, zoomed, slanted or out of focus.

A pixel at ``p`` of the new picture shows what was at ``A p + b`` of the old one, and light spreads by a Gaussian::

    new(p) = (G_sigma * old)(A p + b)        A = R(angle) [[exp(zoom_x), slant], [0, exp(zoom_y)]]

Coordinates count from the middle, in halves of the longer side. These seven numbers are read from the mean picture of
each class: it has hardly any noise left, and is known where labels are. A gain and an offset of brightness are allowed
for, and are not part of the view (`leanloop.bundle.likeness` sees to them). What lies beyond the old picture's edge is
either what its edge shows, or one constant; the fit says which.

Source: image registration by least squares over the parameters of a warp, as Lucas and Kanade, "An iterative image
registration technique", 1981; with gain and offset: Evangelidis and Psarakis, "Parametric image alignment using
enhanced correlation coefficient maximization", 2008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SIDE = 8
"""Pixels; smaller pictures tell too little of a view."""

_MOST_CHANNELS = 4
_BETTER = 0.5
"""What a view must leave, at most, of how far apart the mean pictures are beyond what chance makes of so few."""

_MORE_THAN_CHANCE = 1.5

_TURNS = (0, 20, -20, 45, -45, 90, -90, 180)
"""Degrees that the search starts from: the fit follows slopes, and a turned picture has hills between."""

_FIRST_BLUR = 0.3
_MOST_BLUR = 8
"""Pixels that light spreads to either side."""

_SLACK = 0.2
"""Half pixels beyond the old picture that still count as its edge: a view that is off by a hair loses no row."""

_ROUGH_ITERATIONS, _ITERATIONS = 12, 60
_AT_ONCE = 2_000


@dataclass(frozen=True)
class View:
    """A changed view.

    Attributes:
        numbers: Angle (radians), logarithms of the zoom in x and y, slant, shift in x and y, blur (pixels), [7].
        outside: The constant that is seen beyond the old picture's edge; NaN where its edge goes on.
    """

    numbers: np.ndarray
    outside: float

    @staticmethod
    def fits(shape: tuple[int, ...]) -> bool:
        """Whether samples of this shape are pictures, [channels, height, width]."""
        return len(shape) == 3 and shape[0] <= _MOST_CHANNELS and min(shape[1:]) >= LEAST_SIDE

    @staticmethod
    def fit(old: np.ndarray, old_classes: np.ndarray, fresh: np.ndarray, fresh_classes: np.ndarray) -> View | None:
        """The view that makes old pictures look like fresh ones, class by class; None where none really does.

        Args:
            old: [n, channels, height, width].
            old_classes: [n]; every class of the fresh ones is among them.
            fresh: [m, channels, height, width].
            fresh_classes: [m].
        """
        classes, counts = np.unique(fresh_classes, return_counts=True)
        before, after = (
            np.stack([pictures[labels == one].mean(0, dtype=np.float64) for one in classes]).astype(np.float32)
            for pictures, labels in ((old, old_classes), (fresh, fresh_classes))
        )
        shares = (counts / counts.sum()).astype(np.float32)
        found = [_registered(before, after, shares, outside) for outside in (math.nan, float(fresh.min()))]
        apart, view = min(found, key=lambda one: one[0])
        unmoved = _apart(before, after, shares)
        chance = sum(
            share * (pictures[labels == one].var(0).sum() / (labels == one).sum())
            for pictures, labels in ((old, old_classes), (fresh, fresh_classes))
            for one, share in zip(classes, shares, strict=True)
        )
        explains = apart - chance <= _BETTER * (unmoved - chance)
        return view if explains and unmoved > _MORE_THAN_CHANCE * chance else None

    def apply(self, pictures: np.ndarray) -> np.ndarray:
        """Old pictures as they are seen now, [n, channels, height, width], in their type."""
        import torch

        parts = []
        numbers = torch.from_numpy(self.numbers)
        with torch.inference_mode():
            for first in range(0, len(pictures), _AT_ONCE):
                part = torch.from_numpy(pictures[first : first + _AT_ONCE].astype(np.float32))
                parts.append(_seen(part, numbers, self.outside).numpy())
        return np.concatenate(parts).astype(pictures.dtype)


def _registered(before: np.ndarray, after: np.ndarray, shares: np.ndarray, outside: float) -> tuple[float, View]:
    """How far apart mean pictures stay under the best view, and that view."""
    import torch

    old, new, weights = (torch.from_numpy(values) for values in (before, after, shares))
    starts = [np.array([math.radians(turn), 0, 0, 0, 0, 0, _FIRST_BLUR], np.float32) for turn in _TURNS]
    # With a hard edge the distance jumps where a pixel falls off it, and no slope leads on: a soft one comes first.
    rough = [_followed(start, old, new, weights, outside, _ROUGH_ITERATIONS, soft=True) for start in starts]
    _, best = min(rough, key=lambda one: one[0])
    _, near = _followed(best, old, new, weights, outside, _ITERATIONS, soft=True)
    apart, numbers = _followed(near, old, new, weights, outside, _ITERATIONS, soft=False)
    return apart, View(numbers, outside)


def _followed(
    start: np.ndarray, old: Tensor, new: Tensor, shares: Tensor, outside: float, iterations: int, *, soft: bool
) -> tuple[float, np.ndarray]:
    """The least distance that slopes lead to from some numbers of a view, and the numbers there."""
    import torch

    numbers = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.LBFGS([numbers], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        return _distance(_seen(old, numbers, outside, soft=soft), new, shares)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        apart = float(loss())
    return (apart if math.isfinite(apart) else math.inf), numbers.detach().numpy().copy()


def _apart(before: np.ndarray, after: np.ndarray, shares: np.ndarray) -> float:
    import torch

    return float(_distance(*(torch.from_numpy(values) for values in (before, after, shares))))


def _distance(old: Tensor, new: Tensor, shares: Tensor) -> Tensor:
    """Sum of squares between mean pictures, [classes, channels, height, width], but for a gain and an offset."""
    weights = shares[:, None, None, None]

    def centred(pictures: Tensor) -> Tensor:
        return pictures - (weights * pictures).sum(0).mean((1, 2))[None, :, None, None]

    mine, its = centred(old), centred(new)
    gain = (weights * mine * its).sum((0, 2, 3)) / (weights * mine * mine).sum((0, 2, 3)).clamp_min(1e-12)
    return (weights * (gain[None, :, None, None] * mine - its) ** 2).sum()


def _seen(pictures: Tensor, numbers: Tensor, outside: float, *, soft: bool = False) -> Tensor:
    """Pictures through a view, [n, channels, height, width]; a soft edge fades out over half a pixel."""
    import torch
    from torch.nn import functional

    angle, zoom_x, zoom_y, slant, right, down, blur = numbers
    height, width = pictures.shape[2:]
    longer, sides = max(height, width), torch.tensor([width, height])
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
    stretch = torch.stack([torch.stack([zoom_x.exp(), slant]), torch.stack([torch.zeros(()), zoom_y.exp()])])
    # grid_sample counts each side from -1 to 1.
    matrix = (turn @ stretch) * sides[None, :] / sides[:, None]
    moved = torch.stack([right, down]) * longer / sides
    grid = functional.affine_grid(
        torch.cat([matrix, moved[:, None]], 1)[None].expand(len(pictures), -1, -1),
        list(pictures.shape),
        align_corners=False,
    )
    if math.isnan(outside):
        blurred = _blurred(pictures, blur, "replicate")
        return functional.grid_sample(blurred, grid, mode="bilinear", padding_mode="border", align_corners=False)
    blurred = _blurred(pictures - outside, blur, "constant")
    seen = functional.grid_sample(blurred, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # The old picture ends at the middle of its last pixels: between them and what is outside nothing is known.
    beyond = (grid.abs() - (1 - 1 / sides)) * sides
    known = (1 - beyond).clamp(0, 1) if soft else (beyond <= _SLACK).float()
    return seen * known.prod(-1)[:, None] + outside


def _blurred(pictures: Tensor, sigma: Tensor, padding: str) -> Tensor:
    import torch
    from torch.nn import functional

    places = torch.arange(-_MOST_BLUR, _MOST_BLUR + 1, dtype=torch.float32)
    weights = torch.exp(-(places**2) / (2 * sigma**2 + 1e-6))
    weights, channels, most = weights / weights.sum(), pictures.shape[1], _MOST_BLUR
    row, column = weights.view(1, 1, 1, -1), weights.view(1, 1, -1, 1)
    for kernel, edges in ((row, (most, most, 0, 0)), (column, (0, 0, most, most))):
        wide = functional.pad(pictures, edges, mode=padding)
        pictures = functional.conv2d(wide, kernel.expand(channels, -1, -1, -1), groups=channels)
    return pictures
