"""What serves is changed only where that is clearly faster: other instances and batching, or another artifact."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from leanloop.core.errors import RefusedError
from leanloop.core.settings import ServingSettings
from leanloop.serving import retune, retuning, switch
from tests.serving.conftest import CHOICE, QUERIES, deploy, linear_spec

PATIENT = CHOICE.model_copy(update={"queue_delay_us": 60_000})
"""Every request waits for others that do not come."""


@pytest.fixture(autouse=True)
def short_looks(monkeypatch):
    """The differences are large: a look need be no longer than makes a busy machine's pauses rare in it."""
    monkeypatch.setattr(retuning, "_LOOK_SECONDS", 0.6)


@pytest.fixture
def served(triton, models, new_name):
    """A function that serves version 2 of a model with a choice, and gives the model's name."""

    def serve(choice, *, slow=False):
        spec = linear_spec(new_name())
        deploy(triton.client, triton.repository, spec, [models.linear(1.0), models.linear(2.0, slow=slow)], choice)
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


def test_another_artifact_takes_over_where_it_is_faster_and_is_watched(triton, models, served):
    model, slow, fast = served(CHOICE, slow=True), models.linear(3.0, slow=True), models.linear(4.0)
    prepared = []
    parts = (triton.client, triton.repository, triton.journal)
    hour = timedelta(hours=1)
    done = switch(
        *parts,
        settings_with(0),
        model,
        [slow, fast],
        concurrency=2,
        prepare=prepared.append,
        incident="slow",
        bake=hour,
    )
    assert [one.artifact_id for one in prepared] == [fast.artifact_id]
    assert done.measured.after.p99_ms < done.measured.before.p99_ms
    answer = triton.client.answer(model, {"x": QUERIES})
    assert answer.version == done.promotion.version == 3
    assert np.allclose(answer.outputs["y"], fast.golden.outputs["y"])
    assert triton.repository.config(model).versions == (1, 2, 3)
    rollout = triton.journal.history(model)[-1]
    assert (rollout.state, rollout.artifact_id, rollout.parent) == ("promoted", fast.artifact_id, 1)


def test_an_artifact_that_is_no_faster_stays_where_it_is(triton, models, served):
    model = served(CHOICE)
    before = triton.repository.config(model)
    parts = (triton.client, triton.repository, triton.journal)
    prepared = []
    with pytest.raises(RefusedError, match="times the present p99"):
        switch(*parts, settings_with(0), model, [models.linear(3.0, slow=True)], concurrency=2, prepare=prepared.append)
    assert prepared == []
    assert triton.repository.config(model) == before
    assert triton.repository.versions(model) == (1, 2)


FASTER, SLOWER = 0.5, 1.2


@pytest.mark.parametrize(
    ("ratios", "settled"),
    [
        ([FASTER] * 4, None),
        ([FASTER] * 4 + [SLOWER], True),
        ([FASTER] * 3 + [SLOWER] * 2, None),
        ([FASTER] * 3 + [SLOWER] * 2 + [FASTER] * 5, True),
        ([FASTER] * 9 + [SLOWER] * 6, False),
        ([FASTER] * 2 + [SLOWER] * 3, False),
        ([0.95] * 5, False),
    ],
)
def test_rounds_that_a_busy_machine_blurs_are_followed_by_more(ratios, settled):
    assert retuning.clearly_better([]) is None
    assert retuning.clearly_better(ratios) is settled
