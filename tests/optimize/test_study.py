"""Ending trials of the shared study that somebody else may end, too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from leanloop.optimize.study import OBJECTIVES, WORKER, end, release_dead


@pytest.fixture(params=["memory", "journal", "database"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    storages: dict[str, Any] = {
        "memory": InMemoryStorage,
        "journal": lambda: JournalStorage(JournalFileBackend(str(tmp_path / "studies.journal"))),
        "database": lambda: RDBStorage(f"sqlite:///{tmp_path}/studies.db"),
    }
    storage: BaseStorage = storages[request.param]()
    return optuna.create_study(storage=storage, directions=["minimize"] * len(OBJECTIVES))


@pytest.mark.parametrize("values", [None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize("seen", [True, False], ids=["Optuna sees it", "between its look and its writing"])
def test_that_a_trial_was_released_meanwhile_is_told_in_one_way(
    study: optuna.Study, values: list[float] | None, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = study.ask()
    trial.set_user_attr(WORKER, 1)
    before = study.get_trials()[0]
    assert release_dead(study, lambda owner: owner == 1) == [trial.number]
    if not seen:
        monkeypatch.setattr(study._storage, "get_trial", lambda _: before)
    with pytest.raises(UpdateFinishedTrialError):
        end(study, trial, values, None if values else TrialState.PRUNED)
    assert [one.state for one in study.get_trials()] == [TrialState.FAIL]


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, math.nan]])
def test_values_that_are_none_are_told_as_that(study: optuna.Study, values: list[float]) -> None:
    trial = study.ask()
    with pytest.raises(ValueError, match=r"number of the values|not acceptable") as told:
        end(study, trial, values, TrialState.COMPLETE)
    assert not isinstance(told.value, UpdateFinishedTrialError)


def test_of_two_that_release_a_trial_at_once_none_trips(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = study.ask()
    trial.set_user_attr(WORKER, 1)
    before = study.get_trials()
    release_dead(study, lambda _: True)
    monkeypatch.setattr(study._storage, "get_trial", lambda _: before[0])
    monkeypatch.setattr(study, "get_trials", lambda **_: before)
    assert release_dead(study, lambda _: True) == [trial.number]
