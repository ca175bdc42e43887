"""A re-optimisation step by step on the digits example, after every pixel became brighter by half the range."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from leanloop.bundle import Bundle, correct
from leanloop.core.contracts import Aim, Artifacts, Benchmark, BundleManifest, Candidates, Challenge, Verdict
from leanloop.core.errors import DataError, RefusedError, StoreError
from leanloop.core.events import EVENTS_VARIABLE
from leanloop.core.loop_contracts import Champion, Snapshot
from leanloop.core.store import Store
from leanloop.optimize.recipe import Recipe
from leanloop.optimize.techniques.ort_static_int8 import OrtStaticInt8Config
from leanloop.steps import analyze, benchmark, convert, remake, revise, select, snapshot
from leanloop.steps.snapshot import _bring_student
from tests.steps.reoptimise_case import NOW, Served, ask, brighter, serve


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    found = serve(tmp_path_factory.mktemp("workspace"), Recipe("onnxruntime", (OrtStaticInt8Config(),)))
    ask(found.settings, *brighter(found.bundle))
    return found


@dataclass(frozen=True)
class Repair:
    """Folders of one re-optimisation."""

    served: Served
    folder: Path

    def take(self) -> None:
        snapshot.run(
            self.served.settings,
            release=self.served.release,
            since=NOW,
            champion=self.folder / "champion",
            snapshot=self.folder / "snapshot",
        )

    def revise(self, aim: Aim) -> None:
        revise.run(
            self.served.settings,
            champion=self.folder / "champion",
            snapshot=self.folder / "snapshot",
            bundle=self.folder / "bundle",
            aim=aim,
        )

    def compress(self, aim: Aim) -> None:
        settings, bundle, analysis = self.served.settings, self.folder / "bundle", self.folder / "analysis"
        analyze.run(settings, bundle=bundle, analysis=analysis)
        remake.run(
            settings,
            champion=self.folder / "champion",
            bundle=bundle,
            analysis=analysis,
            candidates=self.folder / "candidates",
            aim=aim,
        )
        artifacts = self.folder / "artifacts"
        convert.run(settings, bundle=bundle, candidates=[self.folder / "candidates"], artifacts=artifacts)
        benchmark.run(settings, bundle=bundle, artifacts=artifacts, benchmark=self.folder / "benchmark")

    def select(self) -> None:
        select.run(
            self.served.settings,
            bundle=self.folder / "bundle",
            analysis=self.folder / "analysis",
            artifacts=self.folder / "artifacts",
            benchmark=self.folder / "benchmark",
            verdict=self.folder / "verdict",
        )


@pytest.fixture(scope="module")
def repaired(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Repair:
    repair = Repair(served, tmp_path_factory.mktemp("repair"))
    repair.take()
    repair.revise("accuracy")
    repair.compress("accuracy")
    repair.select()
    return repair


def test_the_snapshot_holds_what_was_asked_and_who_serves(repaired: Repair) -> None:
    taken = Snapshot.load(repaired.folder / "snapshot")
    assert taken.records == taken.labelled == 347
    assert set(taken.sources) == {f"till{number}" for number in range(5)}
    champion = Champion.load(repaired.folder / "champion")
    assert champion.artifact.id == repaired.served.release.artifact_id
    assert BundleManifest.load(repaired.folder / "champion/bundle").digest == repaired.served.release.bundle_digest


def test_the_champions_recipe_is_made_again_without_a_search(repaired: Repair) -> None:
    made = Candidates.load(repaired.folder / "candidates")
    assert made.challenge is not None
    assert made.trials[0].recipe == repaired.served.release.recipe
    assert made.trials[0].state == "complete"
    assert made.bundle_digest == BundleManifest.load(repaired.folder / "bundle").digest
    assert not (repaired.folder / "candidates/trials/0").exists()  # a folder of the search


def test_the_challenger_beats_the_champion_on_recent_samples_and_keeps_the_golden_ones(repaired: Repair) -> None:
    verdict = Verdict.load(repaired.folder / "verdict")
    challenge = Artifacts.load(repaired.folder / "artifacts").challenge
    assert challenge is not None
    assert verdict.winner not in (None, challenge.champion)
    bundle = Bundle(repaired.folder / "bundle")
    validation, recent = bundle.split("validation"), bundle.fresh_rows("validation")
    right = {}
    for identity in (challenge.champion, verdict.winner):
        with np.load(repaired.folder / f"benchmark/predictions/{identity}.npz") as archive:
            right[identity] = correct(archive["logits"], validation.targets)  # type: ignore[arg-type]
    before, after = right[challenge.champion], right[verdict.winner]
    assert after[recent].mean() > before[recent].mean() + 0.5
    assert after[~recent].mean() >= before[~recent].mean() - 0.01


def test_the_champion_is_measured_beside(repaired: Repair) -> None:
    measured = Benchmark.load(repaired.folder / "benchmark")
    champion = measured.variant(f"champion-{repaired.served.release.artifact_id}")
    assert champion.label.startswith("champion: ort_static_int8")
    assert len(champion.latency[0].block_medians_ms) == len(measured.original.latency[0].block_medians_ms)
    assert measured.batch_sizes == (repaired.served.settings.goal.batch_size,)


def test_the_report_is_written_with_the_champion_in_it(repaired: Repair) -> None:
    assert "champion: ort_static_int8" in (repaired.folder / "verdict/report.html").read_text()


def test_a_challenger_that_is_no_better_is_refused_with_a_verdict(repaired: Repair, tmp_path: Path) -> None:
    winner = Verdict.load(repaired.folder / "verdict").winner
    assert winner is not None
    again = Repair(repaired.served, tmp_path / "again")
    shutil.copytree(repaired.folder, again.folder)
    shutil.rmtree(again.folder / "verdict")
    found = Artifacts.load(again.folder / "artifacts")
    # As if the winner served by now: the others, the former champion among them, are worse on recent samples.
    challenge = Challenge(champion=winner, aim="accuracy")
    found.model_copy(update={"challenge": challenge}).save(again.folder / "artifacts")
    with pytest.raises(RefusedError, match="No challenger is better"):
        again.select()
    verdict = Verdict.load(again.folder / "verdict")
    assert verdict.winner is None
    assert verdict.reason.startswith("nothing better, keep the champion")


def test_too_little_is_said_before_any_work(served: Served, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no live samples"):
        snapshot.run(
            served.settings,
            release=served.release,
            since=NOW + 1e6,
            champion=tmp_path / "champion",
            snapshot=tmp_path / "snapshot",
        )


def test_a_release_that_the_store_lost_is_said(served: Served, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no longer holds"):
        snapshot.run(
            served.settings,
            release=served.release.model_copy(update={"artifact_id": "gone"}),
            since=NOW,
            champion=tmp_path / "champion",
            snapshot=tmp_path / "snapshot",
        )


def test_a_student_that_the_store_lost_is_told(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    _bring_student(Store(str(tmp_path / "empty")), served.release, tmp_path / "student")
    assert not (tmp_path / "student").exists()
    (event,) = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["kind"], event["artifact"]) == ("student_lost", served.release.artifact_id)
