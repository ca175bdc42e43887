"""The service: what it takes from whom, and what it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text

from leanloop.core.contracts import Interval, ServingChoice
from leanloop.core.errors import LeanloopError, ServingError, StoreError
from leanloop.core.launcher import RunRequest, RunState
from leanloop.core.settings import Settings
from leanloop.monitoring.diagnosis import Evidence, diagnose
from leanloop.monitoring.labels import Label
from leanloop.monitoring.loop import Loop
from leanloop.monitoring.service import MOST_BYTES, make_app
from leanloop.monitoring.view import ComputeView, FailureView, FeatureView, LoopView, ModelView, VersionView
from leanloop.serving import ModelConfig, ModelSpec, Ports, TensorSpec

TOKEN = "a-token-of-the-test"
WRITER = {"Authorization": f"Bearer {TOKEN}"}


class NoLauncher:
    """Starts nothing: what is asked here is the ledger."""

    def start(self, request: RunRequest) -> None:
        raise AssertionError(f"nothing may start here: {request}")

    def look(self, run: str) -> RunState:
        return RunState(state="absent")


@pytest.fixture
def loop(settings: Settings, engine: Engine) -> Loop:
    loop = Loop(settings, engine, NoLauncher())
    spec = ModelSpec(name="net", inputs=(TensorSpec(name="x", shape=(2,)),), outputs=(TensorSpec(name="y", shape=()),))
    choice = ServingChoice(instances=1, threads=1, max_batch_size=4, queue_delay_us=0)
    folder = loop.server.repository.folder("net")
    folder.mkdir(parents=True)
    ModelConfig(spec=spec, versions=(1,), choice=choice).save(folder)
    return loop


@contextmanager
def serving(app: FastAPI, *, with_loop: bool) -> Iterator[httpx.Client]:
    """A real server on a free port; the loop's thread belongs to the service's life."""
    port = Ports.free().http
    lifespan = "on" if with_loop else "off"
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan=lifespan, log_level="warning"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(loop: Loop) -> Iterator[httpx.Client]:
    with serving(make_app(loop, TOKEN), with_loop=False) as client:
        yield client


def alert_message(**labels: str) -> dict[str, Any]:
    alert = {
        "status": "firing",
        "labels": {"alertname": "LatencyBudgetBurn", "model": "net"} | labels,
        "startsAt": datetime.now(UTC).isoformat(),
        "fingerprint": "0a",
    }
    return {"version": "4", "alerts": [alert]}


WRITES: dict[str, dict[str, Any]] = {
    "/v1/labels": {"model": "net", "labels": [{"request_id": "a", "label": 1}]},
    "/v1/alerts": alert_message(),
    "/v1/runs": {"model": "net", "reason": "a new data set"},
    "/v1/rollback": {"model": "net", "reason": "it is worse"},
    "/v1/reports": {"model": "net"},
}


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_writes_need_the_token(client: httpx.Client, path: str, headers: dict[str, str], loop: Loop) -> None:
    assert client.post(path, json=WRITES[path], headers=headers).status_code == 401
    assert loop.runs.under_way() is None
    assert loop.labels.of("net", {"a"}) == {}


@pytest.mark.parametrize("path", ["/v1/labels", "/v1/runs", "/v1/rollback", "/v1/reports"])
def test_an_unknown_model_is_named(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json=WRITES[path] | {"model": "nobody"}, headers=WRITER)
    assert answer.status_code == 404
    assert "nobody" in answer.text


def test_labels_are_kept_once(client: httpx.Client, loop: Loop) -> None:
    body = {"model": "net", "labels": [{"request_id": "a", "label": 1}, {"request_id": "b", "sample": 2, "label": 0.5}]}
    assert client.post("/v1/labels", json=body, headers=WRITER).json() == {"new": 2, "repeated": 0, "conflicting": 0}
    assert client.post("/v1/labels", json=body, headers=WRITER).json() == {"new": 0, "repeated": 2, "conflicting": 0}
    assert loop.labels.of("net", {"a", "b"}) == {("a", 0): 1, ("b", 2): 0.5}


@pytest.mark.parametrize(
    "wrong",
    [
        {"request_id": "a", "label": "one"},
        {"request_id": "a b", "label": 1},
        {"request_id": "a", "label": None},
        {"request_id": "a", "sample": -1, "label": 1},
        {"request_id": "a", "label": 1, "extra": 1},
    ],
)
def test_one_wrong_label_refuses_all(client: httpx.Client, loop: Loop, wrong: dict[str, Any]) -> None:
    body = {"model": "net", "labels": [{"request_id": "right", "label": 1}, wrong]}
    assert client.post("/v1/labels", json=body, headers=WRITER).status_code == 422
    assert loop.labels.of("net", {"right", "a"}) == {}


def test_an_alert_is_written_down_before_it_is_acknowledged_and_belongs_to_its_incident(
    client: httpx.Client, loop: Loop
) -> None:
    message = alert_message()
    assert client.post("/v1/alerts", json=message, headers=WRITER).json()["new"] == 1
    assert client.post("/v1/alerts", json=message, headers=WRITER).json()["repeated"] == 1
    burning = Evidence(latency="burning")
    incident = loop.incidents.observe("net", 1, diagnose(burning), burning, {}, now=1.0)
    assert incident is not None
    loop.alerts.attach(incident)
    (told,) = client.get("/v1/incidents").json()
    assert (told["id"], told["alerts"]) == (incident.id, ["LatencyBudgetBurn"])


def test_alerts_that_are_not_ours_are_acknowledged_and_counted(client: httpx.Client) -> None:
    answer = client.post("/v1/alerts", json=alert_message(model="nobody"), headers=WRITER)
    assert answer.status_code == 200
    assert answer.json()["refused"] == {"unknown model": 1}


def test_a_database_that_is_gone_is_told_as_busy(client: httpx.Client, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alerts"))
    assert client.post("/v1/alerts", json=alert_message(), headers=WRITER).status_code == 503


def test_a_body_that_is_too_large_is_not_taken(client: httpx.Client) -> None:
    answer = client.post("/v1/alerts", content=b" " * (MOST_BYTES + 1), headers=WRITER)
    assert answer.status_code == 413


def test_a_body_that_hides_its_size_is_not_taken(client: httpx.Client) -> None:
    answer = client.post("/v1/alerts", content=iter([b"{}"]), headers=WRITER)
    assert answer.status_code == 411


def test_a_run_is_written_down_and_there_is_one_at_a_time(client: httpx.Client, loop: Loop) -> None:
    answer = client.post("/v1/runs", json=WRITES["/v1/runs"], headers=WRITER)
    assert answer.status_code == 202
    under_way = loop.runs.under_way()
    assert under_way is not None
    assert under_way.request.id == answer.json()["id"]
    second = client.post("/v1/runs", json=WRITES["/v1/runs"], headers=WRITER)
    assert second.status_code == 409
    assert under_way.request.id in second.json()["detail"]["value"]
    (listed,) = client.get("/v1/runs").json()
    assert (listed["id"], listed["state"]) == (under_way.request.id, "requested")


def test_a_report_without_a_window_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/reports", json={"model": "net"}, headers=WRITER)
    assert answer.status_code == 409
    assert "no judged window" in answer.json()["detail"]["what"]


def test_a_report_is_read_by_its_name(client: httpx.Client, settings: Settings) -> None:
    folder = Path(settings.workspace) / "monitoring/reports"
    folder.mkdir(parents=True)
    (folder / "20261122-1-drift.html").write_text("<p>drift</p>")
    assert client.get("/v1/reports/20261122-1/drift").text == "<p>drift</p>"
    assert client.get("/v1/reports/20261122-1/quality").status_code == 404
    assert client.get("/v1/reports/20261122-1/secrets").status_code == 422
    assert client.get("/v1/reports/..%2Floop/drift").status_code in (404, 422)


def test_metrics_are_those_of_the_view(client: httpx.Client, loop: Loop) -> None:
    failures = tuple(
        FailureView(what=what, model=model, looks=6, since=1.0, problem="damaged", paged=paged)
        for what, model, paged in (("net", "net", True), ("odd", "odd", False), ("started runs", "", True))
    )
    runs = {"net": {"released": 2}}
    compute = (ComputeView(model="net", version=2, buckets=((0.01, 3), (0.1, 5)), requests=6, total_seconds=1.5),)
    loop.view = LoopView(tick=123.0, captured=7, models=(portrait(),), runs=runs, failures=failures, compute=compute)
    answer = client.get("/metrics")
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    release = (("model", "net"), ("version", "2"))
    assert found["leanloop_last_tick_timestamp_seconds", ()] == 123.0
    assert found["leanloop_capture_records_total", ()] == 7
    assert found["leanloop_runs_total", (("model", "net"), ("state", "released"))] == 2
    assert found["leanloop_question_state", (("model", "net"), ("question", "accuracy"), ("version", "2"))] == 1
    assert found["leanloop_question_state", (("model", "net"), ("question", "inputs"), ("version", "2"))] == -1
    assert found["leanloop_accuracy", (("bound", "low"), *release)] == 0.7
    assert found["leanloop_drift_threshold", (("feature", "x.mean"), *release)] == 0.2
    assert found["leanloop_compute_seconds_bucket", (("le", "0.1"), *release)] == 5
    assert found["leanloop_compute_seconds_bucket", (("le", "+Inf"), *release)] == 6
    assert found["leanloop_compute_seconds_sum", release] == 1.5
    assert found["leanloop_label_coverage_ratio", release] == 0.5
    assert found["leanloop_look_failures", (("what", "started runs"),)] == 6
    pages = {labels: value for (name, labels), value in found.items() if name == "leanloop_page"}
    anyhow = (("model", "net"), ("version", ""))
    assert pages == {release: 0, anyhow: 1, (("model", ""), ("version", "")): 1}
    assert found["leanloop_version_answers", (("model", "net"), ("served", "1"), ("version", "2"))] == 0
    assert client.get("/v1/status").json()["models"][0]["diagnosis"] == "something"


def test_the_loop_runs_while_the_service_does(settings: Settings, engine: Engine) -> None:
    loop, looked = Loop(settings, engine, NoLauncher()), threading.Event()
    loop.tick = lambda now: looked.set()  # type: ignore[method-assign,assignment,misc]
    loop.server.recover = lambda: ()  # type: ignore[method-assign]
    with serving(make_app(loop, TOKEN), with_loop=True) as client:
        assert looked.wait(10)
        assert client.get("/v1/health").status_code == 200
    assert not [thread for thread in threading.enumerate() if thread.name == "loop"]


@pytest.mark.parametrize(("error", "looks"), [(StoreError("damaged"), True), (ServingError("not up yet"), False)])
def test_a_damaged_journal_keeps_nobody_from_looking_but_a_server_that_is_not_up_does(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: LeanloopError, looks: bool
) -> None:
    loop, tried, looked = Loop(settings, engine, NoLauncher()), threading.Event(), threading.Event()

    def recover() -> None:
        tried.set()
        raise error

    monkeypatch.setattr(loop.server, "recover", recover)
    monkeypatch.setattr(loop, "tick", lambda now: looked.set())
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        assert tried.wait(10)
        assert looked.wait(10 if looks else 0.5) == looks
    finally:
        loop.stop()
        thread.join()


def test_the_service_describes_itself(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(WRITES) <= set(document["paths"])
    assert all(operation["description"] for path in document["paths"].values() for operation in path.values())


def test_a_label_model_is_the_one_that_the_database_takes() -> None:
    assert Label(request_id="a", label=1).sample == 0


def portrait() -> ModelView:
    return ModelView(
        model="net",
        version=2,
        artifact_id="a",
        questions={"accuracy": "bad", "inputs": "unknown"},
        evidence={},
        diagnosis="something",
        action="page",
        expected_accuracy=0.9,
        accuracy=Interval(value=0.8, low=0.7, high=0.85),
        estimate=None,
        agreement=None,
        expected_agreement=None,
        labelled=10,
        coverage=0.5,
        conflicts=0,
        clipping={},
        features=(FeatureView(name="x.mean", distance=0.3, threshold=0.2, drifts=True),),
        window_records=500,
        windows=3,
        skipped=0,
        waiting=12,
        request_rate=1.5,
        capacity=100.0,
        versions=(VersionView(version=1, answers=False, milliseconds=1.0, problem="dead"),),
        incidents=(),
    )
