"""Shadow: captured requests are asked again of the champion and of its challenger, side by side in a scratch Triton.

Nobody waits for these answers, so a bad challenger harms no one. Both versions are asked the same request right after
one another, in random order, and compared pair by pair: what slows the machine down slows both.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from leanloop.core.contracts import Record
from leanloop.core.errors import ServingError
from leanloop.core.measure_lock import measuring
from leanloop.serving.client import Arrays, internal_id
from leanloop.serving.stage import Stage

_WARM_UP = 20
_FIRST_LOOK = 500
"""Pairs before the first look at the bounds; each later look has twice as many. Each look is another chance to err,
so there are few, and what is hard to tell still gets the pairs that it needs."""
_RESAMPLES = 1000
_CONFIDENCE = 0.975
_TAIL = 0.995
"""The champion's quantile that the challenger's 99th percentile must be shown to keep to. Half a percent further out,
because a busy machine delays about one request in a hundred tenfold: both 99th percentiles then lie on the edge of
that cliff, now on one side, now on the other, and no number of pairs shows that two equal versions are equal."""
_CLOSE = 0.05
"""Two regression answers agree within this share of the reference's largest answer."""


class ShadowLimits(Record):
    """What a challenger must keep to."""

    p50_ratio: float = Field(1.25, gt=0, description="its median latency over the champion's")
    p99_ratio: float = Field(1.5, gt=0, description="its 99th percentile over the champion's")
    agreement: float = Field(0.9, ge=0, le=1, description="share of requests that it answers as the reference does")
    requests: int = Field(100, ge=1, description="captured requests below which nothing is concluded")


class Ratio(Record):
    """Challenger over champion, with the one-sided bounds of a paired bootstrap at 97.5 %."""

    value: float
    low: float
    high: float


class ShadowResult(Record):
    """What the replay showed.

    ``failed`` needs proof that a limit is broken, ``passed`` proof that all are kept; the rest is ``inconclusive``.
    """

    outcome: Literal["passed", "failed", "inconclusive"]
    reason: str
    requests: int = Field(description="different captured requests")
    pairs: int = Field(0, description="times that both were asked; a request is asked again when pairs are short")
    champion_p50_ms: float | None = None
    challenger_p50_ms: float | None = None
    p50: Ratio | None = None
    p99: Ratio | None = None
    tail: Ratio | None = Field(None, description="the challenger's 99th percentile over the champion's 99.5th")
    agreement: float | None = Field(None, description="with the reference, over the different requests")
    limits: ShadowLimits

    @property
    def passed(self) -> bool:
        """Whether it was shown that the challenger keeps to all limits."""
        return self.outcome == "passed"


def shadow(
    staged: Stage,
    captured: Arrays,
    *,
    champion: int,
    challenger: int,
    reference: int,
    classification: bool,
    limits: ShadowLimits | None = None,
    most_pairs: int = 16_000,
    seconds: float = 30.0,
    seed: int = 0,
) -> ShadowResult:
    """Replay captured requests until latency and agreement are decided, or time or pairs run out.

    Args:
        staged: A scratch Triton that has loaded all versions named here.
        captured: Inputs by name, one request on each row of axis 0.
        champion: Version to be as fast as.
        challenger: Version that wants to be promoted.
        reference: Version whose answers are right: the original that the challenger was made from. (A champion may be
            the very model that answers wrongly.)
        classification: The first output holds one score per class and the largest one is the answer; otherwise it
            holds numbers, which agree within 5 % of the reference's largest one.
        limits: What the challenger must keep to.
        most_pairs: Pairs after which the replay ends.
        seconds: Time after which the replay ends.
        seed: Of order and resampling.

    Raises:
        ServingError: A version does not answer.
    """
    limits = limits or ShadowLimits()
    requests = len(next(iter(captured.values())))
    if requests < limits.requests:
        return ShadowResult(
            outcome="inconclusive",
            reason=f"{requests} captured requests, {limits.requests} are needed",
            requests=requests,
            limits=limits,
        )
    replay = _Replay(staged, captured, seed)
    agreement = replay.agreement(challenger, reference, classification=classification)
    result = ShadowResult(
        outcome="failed",
        reason=f"agrees with its original on {agreement:.1%} of the requests, the limit is {limits.agreement:.1%}",
        requests=requests,
        agreement=agreement,
        limits=limits,
    )
    if agreement < limits.agreement:
        return result
    deadline = time.monotonic() + seconds
    with measuring():
        replay.warm_up((champion, challenger))
        while True:
            look = max(_FIRST_LOOK, 2 * replay.pairs)
            replay.record(champion, challenger, min(look, most_pairs) - replay.pairs, deadline)
            done = replay.pairs >= most_pairs or time.monotonic() > deadline
            result = _judge(result, replay)
            if result.outcome != "inconclusive" or done:
                return result


class _Replay:
    """Asks for single requests, and keeps the latencies of both sides, pair by pair."""

    def __init__(self, staged: Stage, captured: Arrays, seed: int) -> None:
        self._staged = staged
        self._captured = captured
        self._random = np.random.default_rng(seed)
        self._order = self._random.permutation(len(next(iter(captured.values()))))
        self._latencies: list[tuple[float, float]] = []

    @property
    def pairs(self) -> int:
        return len(self._latencies)

    def latencies(self) -> npt.NDArray[np.float64]:
        """Milliseconds, [pairs, (champion, challenger)]."""
        return np.array(self._latencies) * 1e3

    def agreement(self, challenger: int, reference: int, *, classification: bool) -> float:
        given, right = self._answers(challenger), self._answers(reference)
        if classification:
            return float(np.mean(given.argmax(-1) == right.argmax(-1)))
        close = np.abs(given - right) <= _CLOSE * np.abs(right).max()
        return float(np.mean(close.all(axis=tuple(range(1, close.ndim)))))

    def _answers(self, version: int) -> npt.NDArray[Any]:
        config = self._staged.config
        name = config.spec.outputs[0].name
        values = self._staged.client.predict(
            config.spec.name, self._captured, config.choice.max_batch_size, version, internal=True
        )[name]
        if not np.isfinite(values).all():
            raise ServingError(
                "A version answers a captured request with something that is no number.",
                where=f"{config.spec.name}, staged version {version}, output {name!r}",
                value=values[~np.isfinite(values)][0],
                fix="Look at the captured inputs, and at the model's conversion.",
            )
        return values

    def warm_up(self, versions: tuple[int, ...]) -> None:
        for row in self._order[:_WARM_UP]:
            for version in versions:
                self._ask(row, version)

    def record(self, champion: int, challenger: int, pairs: int, deadline: float) -> None:
        for _ in range(pairs):
            row = self._order[self.pairs % len(self._order)]
            if self._random.integers(2):
                first, second = self._ask(row, champion), self._ask(row, challenger)
            else:
                second, first = self._ask(row, challenger), self._ask(row, champion)
            self._latencies.append((first, second))
            if time.monotonic() > deadline:
                break

    def _ask(self, row: int, version: int) -> float:
        request = {name: values[row : row + 1] for name, values in self._captured.items()}
        send = self._staged.client.prepare(self._staged.config.spec.name, request, version)
        began = time.perf_counter()
        send(internal_id())
        return time.perf_counter() - began


def _judge(result: ShadowResult, replay: _Replay) -> ShadowResult:
    latencies, limits = replay.latencies(), result.limits
    p50, p99, tail = _ratios(latencies)
    slow = [
        f"{name} {ratio.value:.2f} times the champion's, at most {limit:g} is allowed"
        for name, ratio, limit in (("p50", p50, limits.p50_ratio), ("p99", p99, limits.p99_ratio))
        if ratio.low > limit
    ]
    undecided = [
        f"{found}, at most {limit:g} is allowed"
        for found, ratio, limit in (
            (f"p50 {p50.low:.2f} to {p50.high:.2f} times the champion's", p50, limits.p50_ratio),
            (f"p99 {tail.low:.2f} to {tail.high:.2f} times the champion's 99.5th percentile", tail, limits.p99_ratio),
        )
        if ratio.high > limit
    ]
    if slow:
        outcome, reason = "failed", "; ".join(slow)
    elif undecided:
        outcome = "inconclusive"
        reason = f"latency is undecided after {replay.pairs} pairs: {'; '.join(undecided)}"
    else:
        outcome, reason = "passed", "as fast as the champion, and it agrees with its original"
    champion_p50, challenger_p50 = np.median(latencies, axis=0)
    return result.model_copy(
        update={
            "outcome": outcome,
            "reason": reason,
            "pairs": replay.pairs,
            "champion_p50_ms": float(champion_p50),
            "challenger_p50_ms": float(challenger_p50),
            "p50": p50,
            "p99": p99,
            "tail": tail,
        }
    )


def _ratios(latencies: npt.NDArray[np.float64]) -> tuple[Ratio, Ratio, Ratio]:
    # The medians, the 99th percentiles, and the challenger's 99th over the champion's 99.5th.
    # Pairs are drawn whole (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993): what slowed both counts
    # on both sides. Always the same seed, so that the same latencies give the same bounds.
    asked = ([0.5, 0.99, _TAIL], [0.5, 0.99, 0.99])
    random = np.random.default_rng(0)
    drawn = np.empty((_RESAMPLES, len(asked[0])))
    for resample in drawn:
        champion, challenger = latencies[random.integers(len(latencies), size=len(latencies))].T
        resample[:] = np.quantile(challenger, asked[1]) / np.quantile(champion, asked[0])
    low, high = np.quantile(drawn, [1 - _CONFIDENCE, _CONFIDENCE], axis=0)
    value = np.quantile(latencies[:, 1], asked[1]) / np.quantile(latencies[:, 0], asked[0])
    p50, p99, tail = (Ratio(value=v, low=a, high=b) for v, a, b in zip(value, low, high, strict=True))
    return p50, p99, tail
