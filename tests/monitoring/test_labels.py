"""Labels come late, twice, contradicting, and for requests that nobody captured."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import Engine

from leanloop.core.errors import SettingsError
from leanloop.monitoring.database import Table, open_database
from leanloop.monitoring.labels import Added, Label, Labels


@pytest.fixture
def labels(engine: Engine) -> Labels:
    return Labels(engine)


def label(identity: str, value: float, sample: int = 0) -> Label:
    return Label(request_id=identity, sample=sample, label=value)


def test_the_migrations_make_the_tables_that_the_code_knows(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_a_label_is_told_once_twice_and_otherwise(labels: Labels) -> None:
    assert labels.add("net", [label("a", 1), label("b", 2, sample=3)]) == Added(2, 0, 0)
    assert labels.add("net", [label("a", 1), label("b", 5, sample=3), label("c", 0)]) == Added(1, 1, 1)
    assert labels.of("net", ["a", "b", "x"]) == {("a", 0): 1, ("b", 3): 2}
    assert labels.conflicts("net") == 1


def test_models_do_not_share_labels(labels: Labels) -> None:
    labels.add("one", [label("a", 1)])
    assert labels.add("two", [label("a", 2)]) == Added(1, 0, 0)
    assert labels.of("one", ["a"]) == {("a", 0): 1}
    assert labels.conflicts("two") == 0


def test_labels_survive_the_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'loop.db'}"
    Labels(open_database(url)).add("net", [label("a", 1.5)])
    assert Labels(open_database(url)).of("net", ["a"]) == {("a", 0): 1.5}


def test_past_the_horizon_they_are_forgotten(labels: Labels) -> None:
    labels.add("net", [label("old", 1)], received=100.0)
    labels.add("net", [label("old", 2)], received=150.0)
    labels.add("net", [label("new", 1)], received=300.0)
    assert labels.forget(200.0) == 1
    assert labels.of("net", ["old", "new"]) == {("new", 0): 1}
    assert labels.conflicts("net") == 0


def test_more_requests_than_a_statement_takes(labels: Labels) -> None:
    many = [label(str(index), index % 10) for index in range(1_500)]
    assert labels.add("net", many) == Added(1_500, 0, 0)
    assert len(labels.of("net", [one.request_id for one in many])) == 1_500


@pytest.mark.parametrize(
    "document",
    [
        {"request_id": "a b", "label": 1},
        {"request_id": "", "label": 1},
        {"request_id": "a" * 65, "label": 1},
        {"request_id": "a", "label": "one"},
        {"request_id": "a", "label": None},
        {"request_id": "a", "label": True},
        {"request_id": "a", "sample": -1, "label": 1},
        {"request_id": "a", "label": 1, "more": 1},
        {"request_id": "a", "label": float("nan")},
    ],
)
def test_what_is_no_label_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Label.model_validate(document)


def test_what_is_no_model_is_refused(labels: Labels) -> None:
    with pytest.raises(SettingsError):
        labels.add("../net", [label("a", 1)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=6), max_size=4))
def test_the_first_label_stands_however_they_arrive(tmp_path_factory: pytest.TempPathFactory, batches: list) -> None:
    labels = Labels(open_database(f"sqlite:///{tmp_path_factory.mktemp('labels') / 'loop.db'}"))
    first: dict[str, int] = {}
    counted = Added(0, 0, 0)
    for batch in batches:
        for identity, value in batch:
            first.setdefault(identity, value)
        added = labels.add("net", [label(identity, value) for identity, value in batch])
        counted = Added(*(a + b for a, b in zip(vars(counted).values(), vars(added).values(), strict=True)))
    assert labels.of("net", "abc") == {(identity, 0): value for identity, value in first.items()}
    assert counted.new == len(first)
    assert counted.new + counted.repeated + counted.conflicting == sum(map(len, batches))
    assert labels.conflicts("net") == counted.conflicting
