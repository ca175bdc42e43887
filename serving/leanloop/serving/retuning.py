"""Other instances and batching for the version that serves: the cheapest way out when requests wait too long."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from leanloop.core.contracts import Record, ServedMeasurement, ServingChoice
from leanloop.core.errors import RefusedError, ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving.client import Arrays, TritonClient
from leanloop.serving.journal import Journal
from leanloop.serving.promote import Promotion, promote_again
from leanloop.serving.repository import ModelRepository
from leanloop.serving.stage import Stage, stage

_LOOK_SECONDS = 1.0
_ROUNDS = 5
_WON_ROUNDS = 4
_GAIN = 0.9
"""Of the present p99 that another choice must stay below: less is not worth a change of a running server."""


class Retuning(Record):
    """What was measured.

    Attributes:
        concurrency: Requests under way at the same time.
        before: The present choice, as it was measured last.
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
    four of them and a tenth of the latency.

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
    config = repository.served(model)
    version = max(config.versions)
    golden, serving = journal.golden(model, version), journal.serving(model, version)
    if golden is None:
        raise ServingError(
            "No golden queries were kept of this version, so it cannot be tried with another choice.",
            where=f"{model} version {version}",
            fix="Deploy its artifact again: `leanloop run`.",
        )
    package, threads = repository.package(model, version, golden), config.choice.threads
    with journal.begin(model, package.artifact_id, incident=incident) as rollout:
        with stage(settings, config.spec, [package], threads) as staged:
            rollout = journal.move(rollout, "validated", golden_queries=len(golden))
            choice, measured = _find(staged, config.choice, settings, golden.inputs, concurrency)
        parent = version if serving is None or serving.parent is None else serving.parent
        promotion = promote_again(client, repository, journal, rollout, (parent, version), choice)
    return Retuned(promotion, choice, measured)


def _find(
    staged: Stage, present: ServingChoice, settings: ServingSettings, samples: Arrays, concurrency: int
) -> tuple[ServingChoice, Retuning]:
    def p99_of(choice: ServingChoice) -> ServedMeasurement:
        staged.apply(choice)
        one = {name: values[:1] for name, values in samples.items()}
        return staged.measure(one, concurrency=concurrency, seconds=_LOOK_SECONDS)

    others = [
        present.model_copy(update={"instances": instances, "queue_delay_us": delay})
        for instances, delay in product(sorted(set(settings.instances)), sorted(set(settings.queue_delays_us)))
    ]
    tried = {choice: p99_of(choice) for choice in others if choice != present}
    if not tried:
        raise _no_better(concurrency, "there is no other choice to try")
    best = min(tried, key=lambda choice: tried[choice].p99_ms)
    rounds = [(p99_of(present), p99_of(best)) for _ in range(_ROUNDS)]
    ratios = tuple(after.p99_ms / before.p99_ms for before, after in rounds)
    if sum(ratio < 1 for ratio in ratios) < _WON_ROUNDS or float(np.median(ratios)) > _GAIN:
        raise _no_better(concurrency, f"the best one has {np.median(ratios):.2f} times the present p99")
    before, after = rounds[-1]
    return best, Retuning(concurrency=concurrency, before=before, after=after, ratios=ratios)


def _no_better(concurrency: int, why: str) -> RefusedError:
    return RefusedError(
        f"No other instances or batching serve {concurrency} requests at a time clearly faster: {why}.",
        where="serving.instances, serving.queue_delays_us",
        fix="What serves stays. Allow more choices, or find a faster model: `leanloop trigger --kind re-optimise`.",
    )
