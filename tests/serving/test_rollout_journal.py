from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from leanloop.core.errors import ServingError, SettingsError, StoreError
from leanloop.serving import Golden, Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_each_transition_is_kept(journal):
    with journal.begin("m", "a1", incident="i7") as rollout:
        journal.move(rollout, "validated", golden_queries=5)
        journal.move(rollout, "promoting", version=2, bake_seconds=60.0)
        now = journal.move(rollout, "promoted", "golden answers came", deadline=datetime.now(UTC))
    journal.name_release(now, "releases/m/1.json")
    (kept,) = journal.history("m")
    assert [one.state for one in kept.transitions] == ["staged", "validated", "promoting", "promoted"]
    assert (kept.state, kept.reason, kept.version, kept.golden_queries) == ("promoted", "golden answers came", 2, 5)
    assert (kept.incident, kept.release, kept.artifact_id) == ("i7", "releases/m/1.json", "a1")
    assert [one.at for one in kept.transitions] == sorted(one.at for one in kept.transitions)
    assert journal.models() == ("m",)
    assert journal.serving("m", 2) == kept
    assert journal.serving("m", 1) is None


def test_what_another_process_writes_is_read_at_once(journal, tmp_path):
    with journal.begin("m", "a1") as rollout:
        reader = Journal(tmp_path)
        assert reader.history("m")[-1].state == "staged"
        journal.move(rollout, "validated")
        assert reader.history("m")[-1].state == "validated"
        journal.move(rollout, "promoting", version=2)
        assert reader.interrupted("m")


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ((), "promoting"),
        (("validated",), "promoted"),
        (("validated", "promoting", "promoted"), "discarded"),
        (("validated", "promoting", "discarded"), "promoting"),
        (("validated", "promoting", "baked", "rolling_back", "rolled_back"), "baked"),
    ],
)
def test_a_state_cannot_be_skipped(journal, steps, refused):
    with journal.begin("m", "a1") as rollout:
        for step in steps:
            rollout = journal.move(rollout, step)
        with pytest.raises(ServingError, match="cannot become"):
            journal.move(rollout, refused)
        assert journal.history("m") == (rollout,)
        if not steps:
            journal.move(rollout, "discarded")


def test_a_wrong_field_is_refused(journal):
    with journal.begin("m", "a1") as rollout, pytest.raises(ValueError, match="verison"):
        journal.move(rollout, "validated", verison=2)


def test_a_rollout_that_ends_early_is_discarded_with_its_reason(journal):
    with pytest.raises(ServingError), journal.begin("m", "a1"):
        raise ServingError("The challenger answers wrongly.", where="here")
    with journal.begin("m", "a2"):
        pass
    first, second = journal.history("m")
    assert (first.number, first.state, first.reason) == (1, "discarded", "The challenger answers wrongly.")
    assert (second.number, second.state, second.reason) == (2, "discarded", "it ended before the promotion")


def test_a_second_rollout_is_refused_and_told_of_the_first(journal):
    with (
        journal.begin("m", "a1"),
        pytest.raises(ServingError, match=r"rollout 1 of m \(staged\)"),
        journal.begin("m", "a2"),
    ):
        pass
    with journal.begin("m", "a3", incident="drift") as rollout, journal.begin("other", "b1"):
        rollout = journal.move(rollout, "validated")
        rollout = journal.move(rollout, "promoting", version=3)
    with pytest.raises(ServingError, match="version 3"), journal.begin("m", "a4"):
        pass
    journal.move(rollout, "promoted")
    with pytest.raises(ServingError, match="leanloop promote 3"), journal.begin("m", "a4"):
        pass
    journal.move(rollout, "baked")
    with journal.begin("m", "a4") as rollout:
        assert rollout.number == 3


def test_what_a_person_promoted_gives_way_to_the_next(tmp_path):
    journal = Journal(tmp_path)
    with journal.begin("m", "a1") as rollout:
        for state in ("validated", "promoting", "promoted"):
            rollout = journal.move(rollout, state)
    with journal.begin("m", "a2"):
        first, second = journal.history("m")
        assert (first.state, second.state) == ("baked", "staged")


def test_an_inconclusive_rollout_gives_way(journal):
    with journal.begin("m", "a1") as rollout:
        for state in ("validated", "shadowed", "inconclusive"):
            rollout = journal.move(rollout, state)
    with journal.begin("m", "a2"):
        assert [one.state for one in journal.history("m")] == ["discarded", "staged"]


def test_what_a_killed_process_had_staged_is_discarded(journal):
    code = (
        "import os, signal, sys; from pathlib import Path; from leanloop.serving import Journal\n"
        "with Journal(Path(sys.argv[1])).begin('m', 'a1'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(journal.root.parent)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert journal.history("m")[0].state == "staged"
    with journal.begin("m", "a2"):
        assert journal.history("m")[0].reason == "the process that staged it ended"


def test_names_that_lead_elsewhere_are_refused(journal):
    with pytest.raises(SettingsError):
        journal.history("../m")


def test_golden_queries_are_kept_per_version(journal):
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    golden = Golden.ask(
        lambda inputs: {"y/out": inputs["x"] @ weights, "size": np.full(len(inputs["x"]), len(inputs["x"]))},
        {"x": np.arange(10, dtype=np.float32).reshape(5, 2)},
        (1, 3),
        tolerance=1e-4,
        rough_tolerance=1e-2,
    )
    journal.keep_golden("m", 2, golden)
    kept = journal.golden("m", 2)
    assert journal.golden("m", 3) is None
    assert kept is not None
    assert (len(kept), kept.tolerance, kept.rough_tolerance, set(kept.answers)) == (5, 1e-4, 1e-2, {1, 3})
    assert kept.queries(3)["x"][:, 0].tolist() == [0, 2, 4, 6, 8, 0]
    assert kept.answers[3]["size"].tolist() == [3] * 6
    np.testing.assert_array_equal(kept.answers[3]["y/out"], kept.queries(3)["x"] @ weights)
    np.testing.assert_array_equal(kept.outputs["y/out"], golden.inputs["x"] @ weights)
    path = journal.root / "m" / "golden" / "2.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="Golden queries cannot be read"):
        journal.golden("m", 2)
