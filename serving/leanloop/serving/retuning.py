"""The cheapest ways out when requests wait too long: other instances and batching, or another artifact of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product

import numpy as np

from leanloop.core.contracts import Record, ServedMeasurement, ServingChoice
from leanloop.core.errors import RefusedError, ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving.client import Arrays, TritonClient
from leanloop.serving.golden import Golden
from leanloop.serving.journal import Journal
from leanloop.serving.model_config import ModelConfig
from leanloop.serving.promote import Promotion, promote_again
from leanloop.serving.repository import ModelRepository, Package
from leanloop.serving.stage import Stage, stage

_LOOK_SECONDS = 1.0
_ROUNDS, _MOST_ROUNDS = 5, 15
"""Before the first decision, and at most: a busy machine blurs single rounds."""

_WON_SHARE = 0.8
_GAIN = 0.9
"""Of the present p99 that another way must stay below: less is not worth a change of a running server."""


class Retuning(Record):
    """What was measured.

    Attributes:
        concurrency: Requests under way at the same time.
        before: What serves now, as it was measured last.
        after: The better one.
        ratios: p99 of the better one over that of the present one, by round.
    """

    concurrency: int
    before: ServedMeasurement
    after: ServedMeasurement
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Retuned:
    """What serves now, and why."""

    promotion: Promotion
    choice: ServingChoice
    measured: Retuning


@dataclass(frozen=True)
class _Way:
    """A version of the stage with a choice."""

    version: int
    choice: ServingChoice


@dataclass(frozen=True)
class _Present:
    """What serves now: its version, and the version of the original that it was made from."""

    config: ModelConfig
    version: int
    parent: int
    golden: Golden
    package: Package


def retune(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    settings: ServingSettings,
    model: str,
    *,
    concurrency: int,
    incident: str | None = None,
) -> Retuned:
    """Find a choice with a clearly lower p99 under the live load, and let the version serve with it.

    Every choice is tried once in a scratch Triton; the best then meets the present one in five rounds, and must win
    four of them and a tenth of the latency. Where it has the tenth but not the rounds, ten more may settle it.

    Args:
        client: Of the server that reads the repository.
        repository: Where it reads.
        journal: Of its rollouts, with the version's golden queries.
        settings: Gives the instance counts and delays to try.
        model: Name of the model.
        concurrency: Requests under way at the same time, as live traffic has them.
        incident: That led to it.

    Raises:
        RefusedError: No choice is clearly better.
        ServingError: Nothing is known of the version's answers, or the new choice does not load.
    """
    now = _present(repository, journal, model)
    choice = now.config.choice
    with journal.begin(model, now.package.artifact_id, incident=incident) as rollout:
        with stage(settings, now.config.spec, [now.package], choice.threads) as staged:
            rollout = journal.move(rollout, "validated", golden_queries=len(now.golden))
            others = [_Way(1, other) for other in _choices(choice, settings) if other != choice]
            way, measured = _find(staged, _Way(1, choice), others, now.golden.inputs, concurrency)
        versions = (now.parent, now.version)
        promotion = promote_again(client, repository, journal, rollout, versions, way.choice)
    return Retuned(promotion, way.choice, measured)


def switch(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    settings: ServingSettings,
    model: str,
    points: Sequence[Package],
    *,
    concurrency: int,
    prepare: Callable[[Package], None],
    incident: str | None = None,
    bake: timedelta | None = None,
) -> Retuned:
    """Let another artifact serve that was made from the same original, where its p99 is clearly lower.

    Each is tried with every choice, and the best must win as in `retune`.

    Args:
        client: Of the server that reads the repository.
        repository: Where it reads.
        journal: Of its rollouts, with the golden queries of what serves.
        settings: Gives the instance counts and delays to try.
        model: Name of the model.
        points: The others; each is as right as was asked for.
        concurrency: Requests under way at the same time, as live traffic has them.
        prepare: Called with the one that shall serve, before it does.
        incident: That led to it.
        bake: How long somebody watches it before it counts as good; None when nobody does.

    Raises:
        RefusedError: None of them is clearly faster.
        ServingError: Nothing is known of what serves, or one of them does not load or answers wrongly.
    """
    now = _present(repository, journal, model)
    choice, spec = now.config.choice, now.config.spec
    names = ", ".join(point.artifact_id for point in points)
    with journal.begin(model, names, incident=incident) as rollout:
        with stage(settings, spec, [*points, now.package], choice.threads) as staged:
            numbers = range(1, len(points) + 1)
            others = [_Way(number, other) for number in numbers for other in _choices(choice, settings)]
            present = _Way(len(points) + 1, choice)
            way, measured = _find(staged, present, others, now.golden.inputs, concurrency)
        point = points[way.version - 1]
        rollout = journal.move(rollout, "validated", artifact_id=point.artifact_id, golden_queries=len(point.golden))
        prepare(point)
        with repository.locked():
            number = repository.place(spec, point, choice.threads)
            journal.keep_golden(model, number, point.golden)
        versions = (now.parent, number)
        promotion = promote_again(client, repository, journal, rollout, versions, way.choice, bake=bake)
    return Retuned(promotion, way.choice, measured)


def _present(repository: ModelRepository, journal: Journal, model: str) -> _Present:
    config = repository.served(model)
    version = max(config.versions)
    golden, serving = journal.golden(model, version), journal.serving(model, version)
    if golden is None:
        raise ServingError(
            "No golden queries were kept of this version, so nothing can be tried beside it.",
            where=f"{model} version {version}",
            fix="Deploy its artifact again: `leanloop run`.",
        )
    parent = version if serving is None or serving.parent is None else serving.parent
    return _Present(config, version, parent, golden, repository.package(model, version, golden))


def _choices(present: ServingChoice, settings: ServingSettings) -> list[ServingChoice]:
    """The present choice with all instance counts and delays that are to be tried."""
    return [
        present.model_copy(update={"instances": instances, "queue_delay_us": delay})
        for instances, delay in product(sorted(set(settings.instances)), sorted(set(settings.queue_delays_us)))
    ]


def _find(
    staged: Stage, present: _Way, others: Sequence[_Way], samples: Arrays, concurrency: int
) -> tuple[_Way, Retuning]:
    def look(way: _Way) -> ServedMeasurement:
        staged.apply(way.choice, way.version)
        one = {name: values[:1] for name, values in samples.items()}
        return staged.measure(one, concurrency=concurrency, seconds=_LOOK_SECONDS)

    tried = {way: look(way) for way in others}
    if not tried:
        raise _no_better(concurrency, "there is no other to try")
    best = min(tried, key=lambda way: tried[way].p99_ms)
    ratios: list[float] = []
    while (better := clearly_better(ratios)) is None:
        before, after = look(present), look(best)
        ratios.append(after.p99_ms / before.p99_ms)
    if not better:
        won = f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)} rounds"
        raise _no_better(concurrency, f"the best one has {np.median(ratios):.2f} times the present p99, and won {won}")
    return best, Retuning(concurrency=concurrency, before=before, after=after, ratios=tuple(ratios))


def clearly_better(ratios: Sequence[float]) -> bool | None:
    """Whether rounds settle that a way is clearly faster; None asks for another round.

    Args:
        ratios: p99 of the way over that of the present one, by round.
    """
    if len(ratios) % _ROUNDS or not ratios:
        return None
    if float(np.median(ratios)) > _GAIN:
        return False
    if sum(ratio < 1 for ratio in ratios) >= _WON_SHARE * len(ratios):
        return True
    return None if len(ratios) < _MOST_ROUNDS else False


def _no_better(concurrency: int, why: str) -> RefusedError:
    return RefusedError(
        f"Nothing at hand serves {concurrency} requests at a time clearly faster: {why}.",
        where="serving.instances, serving.queue_delays_us, optimize.finalists",
        fix="What serves stays. Allow more choices, or find a faster model: `leanloop trigger --kind re-optimise`.",
    )
