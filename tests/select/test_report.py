from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from leanloop.core.contracts import LeftAlone
from leanloop.select import formatting, leaderboard, render_report, summary_panel
from leanloop.select.svg import Labels

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and holds that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words += data


@pytest.mark.parametrize("left_out", [(), ("release",), ("release", "analysis")])
def test_a_report_shows_every_variant_and_stands_alone(run, left_out) -> None:
    records = {**run(), **dict.fromkeys(left_out)}
    html = render_report(**records)
    page = Page(html)
    for variant in records["benchmark"].variants:
        assert variant.label in page.words
        assert variant.baseline or variant.id in page.words
    for tag, name, value in page.attributes:
        if name in {"src", "href"}:
            assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"https?://|url\(|@import", html)
    assert ("Served by Triton" in page.words) == (records["release"] is not None)
    assert ("Analysis of the original" in page.words) == (records["analysis"] is not None)
    assert "13.2× faster" in page.words


def test_the_log_tells_what_each_trial_left_of_the_accuracy_goal(run) -> None:
    words = Page(render_report(**run())).words
    assert "slack +0.40 points" in words
    assert "slack −0.20 points" in words
    assert "Slack is what is left of the accuracy goal" in words


def test_links_lead_to_sections_that_are_there(run) -> None:
    for records in (run(), {**run(max_size_bytes=20_000), "release": None, "analysis": None}):
        page = Page(render_report(**records))
        ids = {value for _, name, value in page.attributes if name == "id"}
        assert {value[1:] for _, name, value in page.attributes if name == "href"} <= ids


def test_names_are_escaped(run) -> None:
    attack = '"><script>alert(1)</script>'
    records = run(name=attack, classes=tuple(f"{attack}{index}" for index in range(10)))
    benchmark = records["benchmark"]
    variants = tuple(variant.model_copy(update={"label": attack}) for variant in benchmark.variants)
    records["benchmark"] = benchmark.model_copy(update={"variants": variants, "notes": (attack,)})
    html = render_report(**records)
    assert html.count("<script>") == 1, "only the report's own"
    assert "<script>alert" not in html
    assert attack in Page(html).words


def test_all_that_was_not_tried_is_told_with_its_reason(run) -> None:
    records = run()
    before = Page(render_report(**records)).words
    assert "the model has no matrix product that is worth it" in before
    assert "left alone" not in before
    assert "no time was left for" not in before
    assert "not asked for" not in before
    late = [
        trial.model_copy(update={"trial": number, "reason": "no time: full training takes about 90 s, 4 s are left"})
        for number, trial in enumerate([records["artifacts"].trials[0]] * 2, 50)
    ]
    records["artifacts"] = records["artifacts"].model_copy(
        update={
            "left_alone": (
                LeftAlone(technique="channel_pruning", parts=("ask", "answer"), reason="it would break"),
                LeftAlone(technique="channel_pruning", parts=("last",), reason="too narrow"),
            ),
            "not_asked_for": ("block_removal", "student"),
            "trials": (*records["artifacts"].trials, *late),
        }
    )
    assert records["artifacts"].untried() == {
        "ort_dynamic_int8": "the model has no matrix product that is worth it",
        "channel_pruning, left alone": "ask, answer: it would break; last: too narrow",
        "no time was left for": f"2 × {late[0].recipe.describe()}",
        "not asked for": "block_removal, student",
    }
    words = Page(render_report(**records)).words
    for key, why in records["artifacts"].untried().items():
        assert key in words
        assert why in words


def test_without_a_winner_the_report_says_what_would_be_the_nearest(run) -> None:
    records = run(max_size_bytes=20_000)
    words = Page(render_report(**{**records, "release": None})).words
    assert "keep the original" in words
    assert "The smallest that keeps the accuracy is" in words
    assert "104,000 bytes, above the limit of 20,000 bytes" in words


@pytest.mark.parametrize("minimise", ["latency_p50", "latency_p99", "size", "cost"])
def test_every_objective_renders(run, minimise) -> None:
    words = Page(render_report(**run(minimise=minimise))).words
    assert {"size": "smaller", "cost": "cheaper"}.get(minimise, "faster") in words


def test_a_regression_without_classes_renders(run) -> None:
    records = run()
    benchmark = records["benchmark"]
    variants = tuple(variant.model_copy(update={"per_class": ()}) for variant in benchmark.variants)
    records["benchmark"] = benchmark.model_copy(
        update={"variants": variants, "metric_name": "rmse", "higher_is_better": False}
    )
    assert "Accuracy per class" not in render_report(**records)


@pytest.mark.parametrize("goal", [{}, {"max_size_bytes": 20_000}])
def test_the_terminal_shows_every_variant_and_the_verdict(run, goal) -> None:
    records = run(**goal)
    console = Console(file=StringIO(), width=160)
    console.print(leaderboard(records["benchmark"], records["verdict"]))
    console.print(summary_panel(records["benchmark"], records["verdict"], records["release"]))
    shown = console.file.getvalue()
    for variant in records["benchmark"].variants:
        assert formatting.milliseconds(variant.latency[0].p50_ms.value) in shown
    assert ("The original stays." in shown) == (records["verdict"].winner is None)
    assert "127.0.0.1:8000" in shown


def test_a_label_is_not_read_as_markup_in_the_terminal(run) -> None:
    records = run()
    benchmark = records["benchmark"]
    variants = tuple(variant.model_copy(update={"label": "[red]x[/blink]"}) for variant in benchmark.variants)
    console = Console(file=StringIO(), width=160)
    console.print(leaderboard(benchmark.model_copy(update={"variants": variants}), records["verdict"]))
    assert "[red]x[/blink]" in console.file.getvalue()


@given(st.lists(st.tuples(st.floats(100, 880), st.floats(60, 380)), min_size=2, max_size=3))
def test_names_of_circles_do_not_cover_each_other_and_stay_inside(points) -> None:
    labels, boxes = Labels(1000.0), []
    for x, y in points:
        found = re.search(r'x="([\d.]+)" y="([\d.]+)"', labels.beside(x, y, 20.0, "ONNX Runtime"))
        centre, baseline = float(found[1]), float(found[2])
        assert 42 <= centre <= 958
        assert all(abs(centre - other[0]) >= 83 or abs(baseline - other[1]) >= 14 for other in boxes)
        boxes.append((centre, baseline))
