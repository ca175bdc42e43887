"""What serves, and what it is compared with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from leanloop.core.contracts import Release
from leanloop.core.releases import baseline_key
from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.judge import Baseline
from leanloop.monitoring.served import Served, read_baseline, renew_baseline
from leanloop.serving import ModelConfig, Rollout, Transition
from tests.serving.conftest import CHOICE, linear_spec

DIGEST, ARTIFACT = "digest", "artifact"


def released(at: float, until: float) -> Served:
    """As it serves since a rollout that was promoted at a Unix time and accepted later."""
    steps = (("promoting", at - 1), ("promoted", at), ("baked", until))
    transitions = tuple(
        Transition.model_validate({"state": state, "at": datetime.fromtimestamp(time, UTC), "reason": ""})
        for state, time in steps
    )
    return Served(
        config=ModelConfig(spec=linear_spec("net"), versions=(1, 2), choice=CHOICE),
        artifact_id=ARTIFACT,
        parent=1,
        release=Release.model_construct(bundle_digest=DIGEST, created=""),
        rollout=Rollout(model="net", number=1, artifact_id=ARTIFACT, transitions=transitions, version=2),
        again=False,
    )


@pytest.fixture
def baseline() -> Baseline:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)).astype(np.float32)
    return Baseline.fit({"x": x}, x[:, :2], None, rng.integers(0, 2, 400), task="classification")


def test_answers_count_from_the_promotion_on_not_from_its_acceptance() -> None:
    assert released(100.0, 200.0).since == 100.0


def test_a_new_normal_lasts_until_the_next_release(settings: Settings, baseline: Baseline, tmp_path: Path) -> None:
    store, first = Workspace(settings).store, baseline_key(DIGEST, ARTIFACT)
    earlier, later = released(100.0, 150.0), released(300.0, 350.0)
    baseline.save(tmp_path / "made")
    store.put_folder(first, tmp_path / "made")

    def key(served: Served) -> str:
        kept = read_baseline(store, served)
        assert kept is not None
        return kept.key

    assert key(earlier) == first
    assert renew_baseline(store, earlier, baseline, 200.9).key == key(earlier) == f"{first}-200"
    assert key(later) == first
    assert renew_baseline(store, later, baseline, 400.0).key == key(later) == f"{first}-400"
