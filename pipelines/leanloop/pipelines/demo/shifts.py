"""The shifts that the demo can put on its traffic, fixed before anything was tuned on them.

All are applied to pixels in [0, 1], as a camera would see them, and clipped to that range again.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from leanloop.core.errors import SettingsError

Shift = Literal["none", "brightness", "rotation", "noise", "blur", "class-mix"]

SEVERITIES = range(1, 6)


def shifted(images: np.ndarray, shift: Shift, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Images as they look after a shift; ``none`` and ``class-mix`` leave each image as it is.

    Args:
        images: Pixels in [0, 1], [samples, channels, height, width].
        shift: ``brightness`` adds 0.1 per step of severity, ``rotation`` turns by 6 degrees per step, ``noise`` adds
            Gaussian noise with a standard deviation of 0.04 per step, ``blur`` is Gaussian with one of 0.4 pixels per
            step.
        severity: 1 to 5.
        rng: Of the noise.

    Returns:
        float32 in [0, 1], of the same shape.

    Raises:
        SettingsError: Shift or severity is unknown.
    """
    check(shift, severity)
    from scipy import ndimage

    if shift == "brightness":
        changed = images + 0.1 * severity
    elif shift == "rotation":
        changed = ndimage.rotate(images, 6.0 * severity, axes=(3, 2), reshape=False, order=1, mode="constant", cval=0)
    elif shift == "noise":
        changed = images + rng.normal(0, 0.04 * severity, size=images.shape)
    elif shift == "blur":
        changed = ndimage.gaussian_filter(images, sigma=(0, 0, 0.4 * severity, 0.4 * severity))
    else:
        changed = images
    return np.clip(changed, 0, 1).astype(np.float32)


def drawn(
    classes: np.ndarray, count: int, shift: Shift, severity: int, rng: np.random.Generator, *, top: int = 0
) -> np.ndarray:
    """Which samples come next, without replacement: all alike, except under ``class-mix``.

    Args:
        classes: True class of each sample there is, [samples].
        count: How many come.
        shift: Under ``class-mix`` the top class makes up 0.1 and 0.1 per step of severity of them.
        severity: 1 to 5.
        rng: Of the draw.
        top: The top class.

    Returns:
        Their indices in random order, [count].

    Raises:
        SettingsError: Shift or severity is unknown, or there are not as many samples.
    """
    check(shift, severity)
    if shift == "class-mix":
        of_top = round((0.1 + 0.1 * severity) * count)
        wanted = [(np.flatnonzero(classes == top), of_top), (np.flatnonzero(classes != top), count - of_top)]
    else:
        wanted = [(np.arange(len(classes)), count)]
    for there, needed in wanted:
        if needed > len(there):
            raise SettingsError(
                "There are not enough samples to draw from.",
                where="shift",
                value=f"{needed} of {len(there)}",
                fix="Draw fewer at a time.",
            )
    return rng.permutation(np.concatenate([rng.choice(there, needed, replace=False) for there, needed in wanted]))


def check(shift: str, severity: int) -> None:
    """Refuse what is no shift, or no severity of one.

    Raises:
        SettingsError: It names what is allowed.
    """
    if shift not in get_args(Shift):
        raise SettingsError("There is no such shift.", where="shift", value=shift, fix=", ".join(get_args(Shift)))
    if severity not in SEVERITIES:
        raise SettingsError("There is no such severity.", where="severity", value=severity, fix="1 to 5.")
