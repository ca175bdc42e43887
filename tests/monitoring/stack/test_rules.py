"""The rules in Prometheus' own evaluator: each alert fires when it should, and not otherwise."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import pytest
import yaml

from leanloop.core.settings import MonitoringSettings, SloSettings
from leanloop.monitoring.stack import ALERT_QUESTIONS, rules
from leanloop.monitoring.stack.programs import need_program

MINUTE, HOUR, DAY = 60, 3600, 86400

P99 = 'nv_inference_request_summary_us{model="m",version="2",quantile="0.99"}'
ANSWERED = 'nv_inference_request_success{model="m",version="2"}'
FAILED = 'nv_inference_request_failure{model="m",version="2",reason="BACKEND"}'
CANCELED = 'nv_inference_request_failure{model="m",version="2",reason="CANCELED"}'
TICK = "leanloop_last_tick_timestamp_seconds"

FAST, SLOW = "10000", "80000"
BUSY, IDLE, CHECKS = 10.0, 0.1, 0.35
"""Requests per second; the monitor's own checks, one per tick, are a few fewer than the last."""


RECORDS = {
    "LatencyBudgetBurn": ("leanloop:latency_",),
    "ErrorBudgetBurn": ("leanloop:error_", "leanloop:failed_"),
}
"""What an alert is drawn from."""


@dataclass
class World:
    """Series in steps of ``interval`` seconds; the rules are evaluated as often."""

    folder: Path
    interval: float = 15
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.series: dict[str, list[str]] = {}

    def add(self, name: str, seconds: float, *values: str) -> None:
        """Go on with these values, again and again, for so long."""
        steps = round(seconds / self.interval)
        self.series.setdefault(name, []).extend(islice(cycle(values), steps))

    def count(self, name: str, seconds: float, per_second: float) -> None:
        """Go on with a counter for so long."""
        kept = self.series.setdefault(name, ["0"])
        start = float(kept[-1])
        kept += [f"{start + per_second * self.interval * step:g}" for step in range(1, round(seconds / self.interval))]

    def check(self, alert: str, expected: dict[float, str], labels: str = 'model="m",version="2",') -> None:
        """Hold that the alert fires at these seconds, with these severities and labels alone; "" is not at all."""
        document = {
            "rule_files": ["rules.yml"],
            "evaluation_interval": f"{self.interval}s",
            "tests": [
                {
                    "interval": f"{self.interval}s",
                    "input_series": [{"series": name, "values": " ".join(v)} for name, v in self.series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                            "eval_time": f"{seconds}s",
                            "exp_samples": [
                                {"labels": self._labels(alert, severity, labels), "value": 1}
                                for severity in severities.split()
                            ],
                        }
                        for seconds, severities in expected.items()
                    ],
                }
            ],
        }
        settings = MonitoringSettings(slo=SloSettings(latency_p99_ms=50, window_scale=self.scale))
        groups = rules.rule_groups(settings, self.interval)
        (group,) = groups["groups"]
        # The others cost time alone.
        group["rules"] = [
            rule
            for rule in group["rules"]
            if rule.get("alert") == alert or rule.get("record", "").startswith(RECORDS.get(alert, ()))
        ]
        (self.folder / "rules.yml").write_text(yaml.safe_dump(groups))
        (self.folder / "test.yml").write_text(yaml.safe_dump(document))
        promtool(self.folder, "test", "rules", "test.yml")

    def _labels(self, alert: str, severity: str, labels: str) -> str:
        question = ALERT_QUESTIONS[alert]
        return f'ALERTS{{alertname="{alert}",alertstate="firing",{labels}question="{question}",severity="{severity}"}}'


def promtool(folder: Path, *arguments: str) -> None:
    told = subprocess.run(
        [need_program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_promtool_accepts_the_rules(tmp_path: Path, scale: float) -> None:
    (tmp_path / "rules.yml").write_text(rules.render(MonitoringSettings(slo=SloSettings(window_scale=scale))))
    promtool(tmp_path, "check", "rules", "rules.yml")


def test_every_alert_has_a_question() -> None:
    groups = rules.rule_groups(MonitoringSettings(), 5.0)["groups"]
    assert {rule["alert"] for rule in groups[0]["rules"] if "alert" in rule} == set(ALERT_QUESTIONS)


def test_ten_slow_minutes_page_and_go_on_a_little(world: World) -> None:
    world.add(P99, HOUR, FAST)
    world.add(P99, 10 * MINUTE, SLOW)
    world.add(P99, 20 * MINUTE, FAST)
    world.count(ANSWERED, 90 * MINUTE, BUSY)
    expected = {HOUR: "", 68 * MINUTE: "", 70 * MINUTE: "page", 78 * MINUTE: "page", 82 * MINUTE: ""}
    world.check("LatencyBudgetBurn", expected)


def test_the_windows_can_be_scaled_down(tmp_path: Path) -> None:
    world = World(tmp_path, interval=1, scale=0.01)
    world.add(P99, 120, FAST)
    world.add(P99, 6, SLOW)
    world.add(P99, 20, FAST)
    world.count(ANSWERED, 146, BUSY)
    world.check("LatencyBudgetBurn", {119: "", 122: "", 126: "page", 140: ""})


def test_six_hours_of_a_slow_burn_page(tmp_path: Path) -> None:
    world = World(tmp_path, interval=60)
    world.add(P99, 6 * HOUR, *[FAST] * 27, *[SLOW] * 3)
    world.count(ANSWERED, 6 * HOUR, BUSY)
    world.check("LatencyBudgetBurn", {6 * HOUR - MINUTE: "page"})


@pytest.mark.parametrize(("every", "step"), [(25, 142), (50, 424)])
def test_days_of_a_slower_burn_are_a_ticket(tmp_path: Path, every: int, step: int) -> None:
    world = World(tmp_path, interval=600)
    world.add(P99, (step + 1) * 600, *[FAST] * (every - 16), SLOW, *[FAST] * 15)
    world.count(ANSWERED, (step + 1) * 600, BUSY)
    world.check("LatencyBudgetBurn", {step * 600: "ticket"})


def test_a_budget_that_lasts_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path, interval=600)
    world.add(P99, 3 * DAY, *[FAST] * 199, SLOW)
    world.count(ANSWERED, 3 * DAY, BUSY)
    world.check("LatencyBudgetBurn", dict.fromkeys((HOUR, 6 * HOUR, DAY, 3 * DAY - 600), ""))


def test_two_slow_minutes_do_not_page(world: World) -> None:
    world.add(P99, HOUR, FAST)
    world.add(P99, 2 * MINUTE, SLOW)
    world.add(P99, 8 * MINUTE, FAST)
    world.count(ANSWERED, 70 * MINUTE, BUSY)
    world.check("LatencyBudgetBurn", dict.fromkeys((61 * MINUTE, 62 * MINUTE, 65 * MINUTE), ""))


def test_a_release_that_begins_slowly_has_minutes_to_warm_up(world: World) -> None:
    world.add(P99, 5 * MINUTE, SLOW)
    world.count(ANSWERED, 5 * MINUTE, BUSY)
    world.check("LatencyBudgetBurn", dict.fromkeys((MINUTE, 3 * MINUTE, 5 * MINUTE - 15), ""))


def test_a_version_that_was_replaced_is_not_told_any_more(world: World) -> None:
    world.add(P99, 70 * MINUTE, SLOW)
    world.count(ANSWERED, 40 * MINUTE, BUSY)
    world.count(ANSWERED, 30 * MINUTE, CHECKS)
    world.count(FAILED, 40 * MINUTE, BUSY)
    world.count(FAILED, 30 * MINUTE, 0.0)
    expected = {39: "page", 44: "page", 49: "", 69: ""}
    world.check("LatencyBudgetBurn", {minute * MINUTE: severities for minute, severities in expected.items()})
    expected = {39: "page ticket", 44: "page ticket", 52: "ticket"}
    world.check("ErrorBudgetBurn", {minute * MINUTE: severities for minute, severities in expected.items()})


@pytest.mark.parametrize(("p99", "rate"), [(SLOW, IDLE), (SLOW, CHECKS), ("NaN", 0.0)])
def test_few_requests_say_nothing_about_latency(world: World, p99: str, rate: float) -> None:
    world.add(P99, HOUR, p99)
    world.count(ANSWERED, HOUR, rate)
    world.check("LatencyBudgetBurn", dict.fromkeys((30 * MINUTE, 59 * MINUTE), ""))


def test_failing_requests_page_within_minutes(world: World) -> None:
    world.count(ANSWERED, 100 * MINUTE, BUSY)
    world.count(FAILED, HOUR, 0.0)
    world.count(FAILED, 10 * MINUTE, 0.5)
    world.count(FAILED, 30 * MINUTE, 0.0)
    expected = {59: "", 60: "", 63: "ticket", 69: "page ticket", 73: "page ticket", 95: "ticket"}
    world.check("ErrorBudgetBurn", {minute * MINUTE: severities for minute, severities in expected.items()})


def test_a_model_that_only_fails_pages(world: World) -> None:
    world.count(ANSWERED, 10 * MINUTE, 0.0)
    world.count(FAILED, 10 * MINUTE, 0.1)
    world.check("ErrorBudgetBurn", {9 * MINUTE: "page ticket"})


@pytest.mark.parametrize(("rate", "severity"), [(0.05, "ticket"), (0.0125, "ticket"), (0.005, "")])
def test_rare_failures_are_told_by_long_windows(tmp_path: Path, rate: float, severity: str) -> None:
    world = World(tmp_path, interval=600)
    world.count(ANSWERED, 2 * DAY, BUSY)
    world.count(FAILED, 2 * DAY, rate)
    world.check("ErrorBudgetBurn", {2 * DAY - 600: severity})


def test_a_few_failures_are_no_rate(world: World) -> None:
    world.count(ANSWERED, HOUR, 0.0)
    world.count(FAILED, 2 * MINUTE, 0.05)
    world.count(FAILED, 58 * MINUTE, 0.0)
    world.check("ErrorBudgetBurn", dict.fromkeys((MINUTE, 3 * MINUTE, 10 * MINUTE, 59 * MINUTE), ""))


def test_requests_that_were_cancelled_did_not_fail(world: World) -> None:
    world.count(ANSWERED, 30 * MINUTE, BUSY)
    world.count(CANCELED, 30 * MINUTE, BUSY)
    world.check("ErrorBudgetBurn", dict.fromkeys((10 * MINUTE, 29 * MINUTE), ""))


@pytest.mark.parametrize(
    ("alert", "severity"),
    [
        ("InputsDrifting", "ticket"),
        ("AccuracyFalling", "page"),
        ("EstimateFalling", "ticket"),
        ("AgreementFalling", "page"),
        ("RequestsFailing", "page"),
    ],
)
def test_what_the_monitor_has_judged_is_told(world: World, alert: str, severity: str) -> None:
    for question in ("inputs", "accuracy", "estimate", "agreement", "requests"):
        state = f'leanloop_question_state{{model="m",version="2",question="{question}"}}'
        world.add(state, 10 * MINUTE, "0")
        world.add(state, 5 * MINUTE, "1" if question == ALERT_QUESTIONS[alert] else "-1")
        world.add(state, 20 * MINUTE, "0")
    world.add(f'leanloop_question_state{{model="n",version="1",question="{ALERT_QUESTIONS[alert]}"}}', 35 * MINUTE, "0")
    expected = {9 * MINUTE: "", 10 * MINUTE: "", 11 * MINUTE: severity, 19 * MINUTE: severity, 21 * MINUTE: ""}
    world.check(alert, expected)


def test_a_person_is_called(world: World) -> None:
    world.add('leanloop_page{model="m",version="2"}', 5 * MINUTE, "0")
    world.add('leanloop_page{model="m",version="2"}', 5 * MINUTE, "1")
    world.add('leanloop_page{model="n",version="1"}', 10 * MINUTE, "0")
    world.check("PersonNeeded", {4 * MINUTE: "", 6 * MINUTE: "page"}, labels='model="m",')


def test_a_monitor_that_stands_still_is_told(world: World) -> None:
    for minute in range(5):
        world.add(TICK, MINUTE, str(minute * MINUTE))
    world.add(TICK, 5 * MINUTE, str(4 * MINUTE))
    world.check("MonitorStale", {4 * MINUTE: "", 5 * MINUTE: "", 7 * MINUTE: "page"}, labels="")


def test_a_monitor_that_is_not_there_is_told(world: World) -> None:
    world.add(TICK, MINUTE, "0")
    world.add(TICK, MINUTE, "stale")
    world.add(TICK, 3 * MINUTE, "_")
    world.check("MonitorStale", {MINUTE: "", 3 * MINUTE: "page"}, labels="")
