"""The table: each row is reached, none is shadowed, and nothing dangerous is done on weak evidence."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from leanloop.core.settings import TriggerSettings
from leanloop.monitoring.diagnosis import TABLE, UNFORESEEN, Action, Evidence, as_markdown, attributes, diagnose
from leanloop.monitoring.evidence import Findings, evidence_of

VALUES = {name: get_args(hint) for name, hint in get_type_hints(Evidence).items()}
EVERYTHING = [Evidence(**dict(zip(VALUES, values, strict=True))) for values in product(*VALUES.values())]


def test_rows_name_what_there_is() -> None:
    for row in TABLE:
        assert set(row.seen) <= set(attributes())
        for name, wanted in row.seen.items():
            assert ({wanted} if isinstance(wanted, str) else set(wanted)) <= set(VALUES[name])
        assert row.action in get_args(Action)


def test_every_row_decides_something() -> None:
    assert {diagnose(evidence).cause for evidence in EVERYTHING} == {row.cause for row in (*TABLE, UNFORESEEN)}


@pytest.mark.parametrize(
    ("evidence", "action"),
    [
        (Evidence(), "nothing"),
        (Evidence(requests="failing", promoted="recently"), "roll back"),
        (Evidence(answers="wrong", promoted="recently"), "roll back"),
        (Evidence(requests="failing"), "repair the server"),
        (Evidence(latency="burning", accuracy="ok"), "re-tune"),
        (Evidence(latency="burning", demand="above capacity"), "page"),
        (Evidence(inputs="drifting", accuracy="ok", labels="enough"), "record"),
        (Evidence(inputs="drifting", labels="pending"), "wait for labels"),
        (Evidence(inputs="drifting", labels="none", estimate="falling"), "re-optimise"),
        (Evidence(agreement="falling"), "re-optimise"),
        (
            Evidence(agreement="falling", parent="falling", accuracy="falling", labels="enough"),
            "fine-tune and re-optimise",
        ),
        (Evidence(agreement="falling", parent="falling", accuracy="falling", labels="pending"), "wait for labels"),
        (Evidence(agreement="falling", parent="falling", inputs="drifting", labels="pending"), "wait for labels"),
        (Evidence(agreement="falling", parent="falling", inputs="drifting", estimate="falling"), "re-optimise"),
        (Evidence(agreement="falling", parent="falling", inputs="drifting"), "page"),
        (Evidence(inputs="drifting", accuracy="falling", labels="enough"), "fine-tune and re-optimise"),
        (Evidence(inputs="drifting", accuracy="falling", labels="few"), "page"),
        (Evidence(accuracy="falling", labels="enough", revision="refused"), "page"),
        (Evidence(inputs="broken", requests="failing"), "page and freeze capture"),
        (Evidence(latency="burning", accuracy="falling", labels="enough"), "page"),
    ],
)
def test_the_rows_of_the_design(evidence: Evidence, action: Action) -> None:
    assert diagnose(evidence).action == action


def test_nothing_is_done_to_the_model_without_a_reason() -> None:
    for evidence in EVERYTHING:
        action = diagnose(evidence).action
        if action == "roll back":
            assert evidence.promoted == "recently"
        if action == "fine-tune and re-optimise":
            assert (evidence.accuracy, evidence.labels, evidence.revision) == ("falling", "enough", "not tried")
        if action == "re-optimise":
            assert "falling" in (evidence.agreement, evidence.estimate)
        if action == "nothing":
            # A parent that fails alone serves nobody.
            seen = vars(replace(evidence, parent="ok")).values()
            assert {"failing", "wrong", "burning", "falling", "drifting", "broken"}.isdisjoint(seen)
        if evidence.inputs == "broken":
            assert action == "page and freeze capture"


def test_nobody_waits_while_something_burns_or_fails() -> None:
    for evidence in EVERYTHING:
        if diagnose(evidence).action in ("nothing", "record", "wait for labels"):
            assert (evidence.requests, evidence.answers) == ("answered", "right")
            assert evidence.latency != "burning"
            # Compression is not blamed for what the parent does not know either: labels may tell.
            assert evidence.agreement != "falling" or evidence.parent == "falling"


def test_the_table_is_shown_whole() -> None:
    text = as_markdown()
    assert text.count("\n") == len(TABLE) + 3
    assert all(row.cause in text for row in TABLE)


def found(**changes: object) -> Findings:
    """A healthy release under labelled traffic."""
    usual = Findings(
        answers=True,
        failing=False,
        right=True,
        baking=False,
        latency_burns=False,
        request_rate=10.0,
        capacity=100.0,
        inputs="ok",
        broken=False,
        accuracy="ok",
        fresh_labels=1_000,
        any_labels=True,
        drifting_since=None,
        estimate="ok",
        agreement="ok",
        parent="ok",
        revision_refused=False,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def seen(**changes: object) -> Evidence:
    return evidence_of(found(**changes), TriggerSettings(label_horizon_minutes=10), now=100.0)


def test_a_healthy_release_is_left_alone() -> None:
    assert diagnose(seen()).action == "nothing"


def test_a_new_release_is_not_to_blame_while_the_world_may_just_be_changing() -> None:
    wrong = {"baking": True, "accuracy": "falling"}
    assert diagnose(seen(**wrong)).action == "roll back"
    begun = seen(**wrong, drifting_since=90.0)
    assert begun.inputs == "unknown"
    assert diagnose(begun).action == "fine-tune and re-optimise"


def test_the_handbook_shows_the_table_as_it_is() -> None:
    handbook = (Path(__file__).parents[2] / "docs/loop.md").read_text(encoding="utf-8")
    _, after = handbook.split("<!-- the diagnosis table, made by leanloop.monitoring.diagnosis -->\n")
    assert after.split("<!-- end of the table -->")[0] == as_markdown()
