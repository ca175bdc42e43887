from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from leanloop.core.errors import ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving import (
    CaptureChoice,
    check_golden,
    enforce_deadlines,
    finish_bake,
    promote_version,
    roll_back,
)
from tests.serving.conftest import CHOICE, QUERIES, deploy, linear_spec

ROUNDS = 6
"""Of promotion and roll-back under load."""

BAKE = timedelta(hours=1)


class Rollouts:
    """One model on the shared server, and what can be done to it."""

    def __init__(self, triton, spec) -> None:
        self.parts = (triton.client, triton.repository, triton.journal)
        self.triton, self.spec = triton, spec

    def deploy(self, *packages, choice=CHOICE, capture=None, bake=None, incident=None):
        client, repository, _ = self.parts
        return deploy(client, repository, self.spec, packages, choice, capture, bake, incident)

    def roll_back(self, **options):
        return roll_back(*self.parts, self.spec.name, "the test asks for it", **options)

    def promote(self, version: int):
        settings = ServingSettings(max_batch_size=8)
        return promote_version(*self.parts, settings, self.spec.name, version, "the test asks for it")

    @property
    def answers(self) -> int:
        return self.triton.client.answer(self.spec.name, {"x": QUERIES}).version

    @property
    def config(self):
        return self.triton.repository.config(self.spec.name)

    @property
    def states(self) -> list[str]:
        return [rollout.state for rollout in self.triton.journal.history(self.spec.name)]


@pytest.fixture
def rollouts(triton, new_name) -> Rollouts:
    return Rollouts(triton, linear_spec(new_name()))


def test_the_version_before_answers_again_at_once(rollouts, models, tmp_path):
    capture = CaptureChoice(folder=str(tmp_path), rate=0.1, quota_bytes=1000)
    packages = models.linear(1.0), models.linear(2.0)
    rollouts.deploy(*packages, capture=capture)
    rollouts.deploy(packages[0], models.linear(3.0), capture=capture, bake=BAKE)
    done = rollouts.roll_back(incident="i1")
    assert (done.state, done.version, done.previous, done.incident) == ("rolled_back", 3, 2, "i1")
    assert done.reason == "the test asks for it"
    assert done.rollback_ms is not None
    assert done.rollback_ms < 1000, "nothing had to be loaded"
    assert rollouts.answers == 2
    assert (rollouts.config.versions, rollouts.config.choice, rollouts.config.capture) == ((1, 2), CHOICE, capture)
    assert not rollouts.triton.client.is_serving(rollouts.spec.name, 3)

    assert rollouts.roll_back().version == 2
    assert rollouts.answers == 1
    with pytest.raises(ServingError, match="no rollout"):
        rollouts.roll_back()
    assert rollouts.states == ["rolled_back", "rolled_back"]
    check_golden(rollouts.triton.client, rollouts.spec.name, packages[0].golden, batch_size=8)


def test_a_version_gets_back_the_instances_and_batching_it_was_served_with(rollouts, models):
    original, winner = models.linear(1.0), models.linear(2.0)
    other = CHOICE.model_copy(update={"instances": 2, "queue_delay_us": 100})
    rollouts.deploy(original, winner)
    rollouts.deploy(original, models.linear(3.0), choice=other)
    rollouts.roll_back()
    assert (rollouts.answers, rollouts.config.choice) == (2, CHOICE)
    tuned = rollouts.deploy(original, winner, choice=other)
    assert (tuned.version, rollouts.config.choice) == (2, other)
    rollouts.roll_back()
    assert (rollouts.answers, rollouts.config.choice) == (2, CHOICE)


def test_any_version_on_the_disk_can_be_gone_back_to(rollouts, models):
    original = models.linear(1.0)
    for scale in (2.0, 3.0, 4.0):
        rollouts.deploy(original, models.linear(scale))
    assert rollouts.config.versions == (1, 3, 4)
    rollouts.roll_back(to=2)
    assert (rollouts.answers, rollouts.config.versions) == (2, (1, 2))
    with pytest.raises(ServingError, match="no such version"):
        rollouts.roll_back(to=9)
    with pytest.raises(ServingError, match="serves already"):
        rollouts.roll_back(to=2)
    rollouts.roll_back(to=1)
    assert (rollouts.answers, rollouts.config.versions) == (1, (1,))


def test_a_version_that_does_not_load_is_not_gone_back_to(rollouts, models):
    original = models.linear(1.0)
    for scale in (2.0, 3.0, 4.0):
        rollouts.deploy(original, models.linear(scale), bake=BAKE if scale == 4.0 else None)
    (rollouts.triton.repository.folder(rollouts.spec.name) / "2" / "model.onnx").write_bytes(b"not a model")
    config = rollouts.config
    with pytest.raises(ServingError, match="InvalidProtobuf"):
        rollouts.roll_back(to=2)
    assert (rollouts.answers, rollouts.config) == (4, config)
    last = rollouts.triton.journal.history(rollouts.spec.name)[-1]
    assert last.state == "promoted"
    assert last.reason.startswith("not rolled back: Triton refused")
    rollouts.roll_back()
    assert rollouts.answers == 3


def test_an_accepted_version_lets_the_others_go(rollouts, models):
    original, revised = models.linear(1.0), models.linear(1.5)
    rollouts.deploy(original, models.linear(2.0))
    with pytest.raises(ServingError, match="waits for a verdict"):
        finish_bake(*rollouts.parts, rollouts.spec.name, "no news")
    promotion = rollouts.deploy(revised, models.linear(3.0), bake=BAKE, incident="drift")
    assert sorted(promotion.versions) == [1, 2, 3, 4]
    assert rollouts.states == ["baked", "promoted"]
    with pytest.raises(ServingError, match="on its way"):
        rollouts.deploy(original, models.linear(5.0))
    finish_bake(*rollouts.parts, rollouts.spec.name, "five quiet windows")
    assert rollouts.config.versions == (1, 3, 4), "original, parent and champion"
    assert rollouts.answers == 4
    assert rollouts.triton.journal.history(rollouts.spec.name)[-1].reason == "five quiet windows"
    rollouts.roll_back()
    assert rollouts.answers == 2, "loaded again from the disk"


def test_a_version_on_the_disk_is_promoted_by_its_number(rollouts, models):
    original = models.linear(1.0)
    rollouts.deploy(original, models.linear(2.0), choice=CHOICE.model_copy(update={"queue_delay_us": 100}))
    rollouts.deploy(original, models.linear(3.0), bake=BAKE)
    assert rollouts.promote(3).state == "baked", "the one on trial is accepted"
    rollouts.roll_back(to=1)
    promoted = rollouts.promote(2)
    assert (promoted.number, promoted.state, promoted.version, promoted.parent) == (3, "baked", 2, 1)
    assert (rollouts.answers, rollouts.config.choice.queue_delay_us) == (2, 100)
    with pytest.raises(ServingError, match="serves already"):
        rollouts.promote(2)
    with pytest.raises(ServingError, match="no such version"):
        rollouts.promote(7)

    golden = models.linear(4.0).golden
    rollouts.triton.journal.keep_golden(rollouts.spec.name, 3, golden)
    with pytest.raises(ServingError, match="does not answer as"):
        rollouts.promote(3)
    assert rollouts.answers == 2
    assert rollouts.states[-1] == "discarded"


def test_what_a_person_promoted_waits_for_its_traffic(rollouts, models):
    original = models.linear(1.0)
    rollouts.deploy(original, models.linear(2.0), bake=BAKE)
    # Other tests share the server, and may have left rollouts of other models whose time is up.
    ended = enforce_deadlines(*rollouts.parts, datetime.now(UTC) + 100 * BAKE)
    assert rollouts.spec.name not in [rollout.model for rollout in ended]
    assert (rollouts.answers, rollouts.states[-1]) == (2, "promoted")


def test_without_a_verdict_the_deadline_decides(rollouts, models):
    original = models.linear(1.0)
    rollouts.deploy(original, models.linear(2.0))
    rollouts.deploy(original, models.linear(3.0), bake=BAKE, incident="drift")
    now = datetime.now(UTC)
    assert enforce_deadlines(*rollouts.parts, now) == ()
    assert rollouts.answers == 3
    (ended,) = enforce_deadlines(*rollouts.parts, now + BAKE + timedelta(minutes=1))
    assert (ended.state, rollouts.answers) == ("rolled_back", 2)

    journal = rollouts.triton.journal
    with journal.begin(rollouts.spec.name, "a") as rollout:
        for state in ("validated", "shadowed"):
            rollout = journal.move(rollout, state)
        journal.move(rollout, "inconclusive", deadline=now + BAKE)
    assert enforce_deadlines(*rollouts.parts, now) == ()
    assert enforce_deadlines(*rollouts.parts, now + 2 * BAKE)[0].state == "discarded"


def test_no_request_fails_while_versions_come_and_go(rollouts, models, record_property):
    original, challenger = models.linear(1.0), models.linear(2.0)
    rollouts.deploy(original)
    weights = original.golden.outputs["y"]
    ended = threading.Event()
    answered: list[int] = []
    failures: list[str] = []

    def ask() -> None:
        with rollouts.triton.connect() as client:
            while not ended.is_set():
                try:
                    answer = client.answer(rollouts.spec.name, {"x": QUERIES})
                    np.testing.assert_allclose(answer.outputs["y"], weights * answer.version, rtol=1e-4)
                    answered.append(answer.version)
                except (ServingError, AssertionError) as error:
                    failures.append(f"{error}")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    took = []
    try:
        for count in range(ROUNDS):
            # Other instances make Triton load every version anew, while it answers.
            choice = CHOICE.model_copy(update={"instances": 2, "queue_delay_us": 100}) if count == 3 else CHOICE
            assert rollouts.deploy(original, challenger, choice=choice, bake=BAKE).version == 2
            time.sleep(0.05)
            took.append(rollouts.roll_back().rollback_ms)
            assert (rollouts.answers, rollouts.config.choice) == (1, CHOICE)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert {1, 2} == set(answered)
    assert rollouts.states == ["baked"] + ["rolled_back"] * ROUNDS
    record_property("requests", len(answered))
    record_property("rollback_ms", sorted(took))
    assert np.median(took) < 1000, took
