from __future__ import annotations

import numpy as np
import pytest

from leanloop.core.errors import ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving import ShadowLimits, shadow, stage
from tests.serving.conftest import linear_spec

SETTINGS = ServingSettings(max_batch_size=8)
CAPTURED = {"x": np.random.default_rng(1).normal(size=(150, 4)).astype(np.float32)}
WIDE = ShadowLimits(p50_ratio=1.5, p99_ratio=5.0)
"""Two cores that others use, too: the tests look for what is far apart."""


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    from tests.serving.conftest import Models

    models = Models(tmp_path_factory.mktemp("shadow"))
    packages = [
        models.linear(1.0),
        models.linear(2.0),
        models.linear(1.0, slow=True),
        models.linear(-1.0),
    ]
    with stage(SETTINGS, linear_spec("m"), packages, threads=1) as staged:
        yield staged


def replay(staged, challenger: int, *, classification: bool = True, captured=CAPTURED, **options):
    options = {"limits": WIDE, **options}
    return shadow(
        staged, captured, champion=1, challenger=challenger, reference=1, classification=classification, **options
    )


def test_a_challenger_as_good_as_the_champion_passes(staged):
    result = replay(staged, 2)
    assert result.passed, result.reason
    assert (result.requests, result.agreement) == (150, 1.0)
    assert result.pairs >= 500
    assert result.p50.low < result.p50.value < result.p50.high < 1.5


def test_a_challenger_that_is_slower_in_triton_is_refused(staged):
    result = replay(staged, 3)
    assert result.outcome == "failed"
    assert result.reason.startswith("p50 ")
    assert result.p50.low > 1.5
    assert result.challenger_p50_ms > 1.5 * result.champion_p50_ms
    assert result.agreement == 1.0


def test_a_challenger_that_answers_otherwise_is_refused(staged):
    result = replay(staged, 4)
    assert result.outcome == "failed"
    assert "agrees with its original" in result.reason
    assert result.agreement < 0.5
    numbers = replay(staged, 2, classification=False)
    assert numbers.outcome == "failed", "twice as large is the same class, but another number"


def test_too_few_requests_tell_nothing(staged):
    result = replay(staged, 4, captured={"x": CAPTURED["x"][:99]})
    assert result.outcome == "inconclusive"
    assert result.reason == "99 captured requests, 100 are needed"


def test_a_replay_that_ends_too_soon_tells_nothing(staged):
    result = replay(staged, 2, limits=ShadowLimits(p50_ratio=1.0, p99_ratio=1.0), most_pairs=40)
    assert (result.outcome, result.pairs) == ("inconclusive", 40)


def test_an_answer_that_is_no_number_is_told(staged):
    with pytest.raises(ServingError, match="no number"):
        replay(staged, 2, captured={"x": np.full((100, 4), np.nan, np.float32)})
