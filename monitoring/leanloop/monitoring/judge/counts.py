"""Chances of counts: how many of a window's records to expect where a share is known from a reference only."""

from __future__ import annotations

import numpy as np


def chances(trials: int, successes: int, failures: int) -> np.ndarray:
    """Chances of 0 to ``trials`` successes, [trials + 1], after so many successes and failures in the reference.

    The beta-binomial distribution with Jeffreys' prior: a share that few records have told is allowed to be off.
    """
    from scipy import stats

    return np.asarray(stats.betabinom.pmf(np.arange(trials + 1), trials, successes + 0.5, failures + 0.5))


def expected_share(successes: int, failures: int) -> float:
    """The mean of the same distribution, as a share."""
    return (successes + 0.5) / (successes + failures + 1)
