"""What techniques leave alone is heard, kept with the shapes that they made, and told once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leanloop.bundle import Bundle
from leanloop.core.contracts import Candidates, LeftAlone, TrialRow
from leanloop.core.events import EVENTS_VARIABLE, emit, listening
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.core.workspace import Workspace, with_absolute_paths
from leanloop.optimize import Recipe, Workshop, left_alone
from leanloop.optimize.apply import make_prefix
from leanloop.optimize.recipe import recipe_id
from leanloop.optimize.techniques import channel_pruning
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig
from leanloop.optimize.techniques.distillation import DistillationConfig
from leanloop.steps import optimize

PRUNE, DISTIL = ChannelPruningConfig(), DistillationConfig()


def made(bundle: Bundle) -> Candidates:
    """What a worker gives that gave the pruned shape up after a look at its latency."""
    recipe = Recipe("onnxruntime", (PRUNE, DISTIL))
    row = TrialRow(
        trial=0,
        recipe=recipe.record(),
        candidate_id=recipe_id(recipe, bundle.manifest.digest),
        state="pruned",
        rung="latency",
        latency_ms=1.0,
        metric=None,
        size_bytes=1,
        seconds=0.0,
        reason="",
    )
    return Candidates(bundle_digest=bundle.manifest.digest, worker=0, candidates=(), trials=(row,), left_out={})


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pruning tells that it leaves two layers alone; the list says how often it was carried out."""
    times: list[str] = []
    recalibrate: Callable[..., None] = channel_pruning.recalibrate

    def tell(*arguments: object) -> None:
        times.append("")
        emit("left_alone", technique="channel_pruning", layers=["ask", "answer"])
        recalibrate(*arguments)

    monkeypatch.setattr(channel_pruning, "recalibrate", tell)
    return times


def test_a_shape_from_the_store_tells_the_same(bundle: Bundle, tmp_path: Path, breaking: list[str]) -> None:
    workshop = Workshop(bundle, Store(str(tmp_path)), threads=1)
    assert left_alone.told(made(bundle), [], workshop.store).left_alone == ()
    for _ in range(2):
        make_prefix((PRUNE,), workshop)
        (found,) = left_alone.told(made(bundle), [], workshop.store).left_alone
        assert (found.technique, found.parts) == ("channel_pruning", ("ask", "answer"))
        assert "break the network" in found.reason
    assert len(breaking) == 1


def test_the_step_tells_what_its_worker_heard_and_what_the_trials_left(
    bundle: Bundle, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaking: list[str]
) -> None:
    own = with_absolute_paths(settings.model_copy(update={"workspace": "workspace"}), tmp_path)
    # As in a trial's process, where this one hears nothing.
    make_prefix((PRUNE,), Workshop(bundle, Workspace(own).store, threads=1))

    def search(*_: object) -> Candidates:
        emit("left_alone", technique="student", arguments='{"width": 0}', reason="It cannot be built.")
        return made(bundle)

    monkeypatch.setattr("leanloop.optimize.search_worker", search)
    monkeypatch.setattr("leanloop.core.contracts.Analysis.load", lambda _: None)
    optimize.run(own, bundle=bundle.folder, analysis=tmp_path, candidates=tmp_path / "candidates", worker=0)
    found = Candidates.load(tmp_path / "candidates").left_alone
    assert {one.technique: one.parts for one in found} == {
        "student": ('{"width": 0}',),
        "channel_pruning": ("ask", "answer"),
    }
    assert found[0].reason == "It cannot be built."


def test_what_has_one_reason_is_told_once() -> None:
    first, second = (LeftAlone(technique="t", parts=parts, reason="r") for parts in (("a", "b"), ("b", "c")))
    other = LeftAlone(technique="t", parts=("a",), reason="another")
    assert left_alone.together([first, other, second]) == (
        LeftAlone(technique="t", parts=("a", "b", "c"), reason="r"),
        other,
    )


def test_who_listens_hears_one_kind_and_the_file_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    with listening("a") as heard, listening("b"):
        emit("a", number=1)
        emit("b", number=2)
    emit("a", number=3)
    assert heard == [{"number": 1}]
    assert [json.loads(line)["number"] for line in (tmp_path / "events.jsonl").read_text().splitlines()] == [1, 2, 3]
