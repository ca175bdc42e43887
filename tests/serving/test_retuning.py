"""A version goes on with other instances and batching only where that is clearly faster."""

from __future__ import annotations

import pytest

from leanloop.core.errors import RefusedError
from leanloop.core.settings import ServingSettings
from leanloop.serving import retune
from tests.serving.conftest import CHOICE, deploy, linear_spec

PATIENT = CHOICE.model_copy(update={"queue_delay_us": 60_000})
"""Every request waits for others that do not come."""


@pytest.fixture
def served(triton, models, new_name):
    """A function that serves version 2 of a model with a choice, and gives the model's name."""

    def serve(choice):
        spec = linear_spec(new_name())
        deploy(triton.client, triton.repository, spec, [models.linear(1.0), models.linear(2.0)], choice)
        return spec.name

    return serve


def settings_with(*delays: int) -> ServingSettings:
    return ServingSettings(instances=(1,), queue_delays_us=delays, max_batch_size=8)


def test_requests_that_waited_for_nothing_do_not_any_more(triton, served):
    model = served(PATIENT)
    parts = (triton.client, triton.repository, triton.journal)
    done = retune(*parts, settings_with(0, 60_000), model, concurrency=2, incident="slow")
    assert done.choice.queue_delay_us == 0
    assert done.measured.after.p99_ms < done.measured.before.p99_ms
    config = triton.repository.config(model)
    assert (config.choice.queue_delay_us, max(config.versions), done.promotion.version) == (0, 2, 2)
    rollout = triton.journal.history(model)[-1]
    assert (rollout.state, rollout.incident, rollout.version, rollout.parent) == ("baked", "slow", 2, 1)


@pytest.mark.parametrize(("present", "delays", "why"), [(CHOICE, (60_000,), "times"), (PATIENT, (60_000,), "no other")])
def test_where_nothing_is_faster_everything_stays(triton, served, present, delays, why):
    model = served(present)
    before = triton.repository.config(model)
    parts = (triton.client, triton.repository, triton.journal)
    with pytest.raises(RefusedError, match=why):
        retune(*parts, settings_with(*delays), model, concurrency=2)
    assert triton.repository.config(model) == before
    assert triton.journal.history(model)[-1].state == "discarded"
