"""leanloop's service: the loop in a thread, and the HTTP interface to it. On loopback; writes need the token.

What is acknowledged is on the disk. Alerts and labels that make no sense are refused in the answer's counts or with
422, a database that cannot be written gives 503, so that Alertmanager tells it again.
"""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError

from leanloop.core.errors import LeanloopError
from leanloop.core.launcher import Kind, RunRequest
from leanloop.core.settings import Name
from leanloop.monitoring.alerts import AlertMessage
from leanloop.monitoring.explain import ReportKind
from leanloop.monitoring.exporter import LoopCollector, exposition
from leanloop.monitoring.labels import Label
from leanloop.monitoring.loop import Loop
from leanloop.monitoring.view import LoopView

log = logging.getLogger(__name__)

_BEARER = HTTPBearer(auto_error=False)

MOST_BYTES = 8 << 20
"""Of one request's body."""

MOST_LABELS = 50_000


class LabelsIn(BaseModel):
    """Labels of one model."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    labels: Annotated[list[Label], Field(min_length=1, max_length=MOST_LABELS)]


class LabelsOut(BaseModel):
    """What became of them."""

    new: int
    repeated: int
    conflicting: int


class AlertsOut(BaseModel):
    """What became of a message's alerts."""

    new: int
    repeated: int
    resolved: int
    refused: dict[str, int]


class RunIn(BaseModel):
    """A run that a person asks for."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    kind: Kind = "re-optimise"
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    since: Annotated[float | None, Field(description="Unix time from which on live records are fresh")] = None


class ReportIn(BaseModel):
    """A model to report on."""

    model_config = ConfigDict(extra="forbid")

    model: Name


class ReportOut(BaseModel):
    """Under what name the reports will be."""

    name: str


class RollBackIn(BaseModel):
    """A roll-back that a person asks for."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    reason: Annotated[str, Field(min_length=1, max_length=200)]


class VersionOut(BaseModel):
    """What serves now."""

    model: str
    version: int


class HealthOut(BaseModel):
    """Whether the loop looks."""

    last_tick: float


def make_app(loop: Loop, token: str) -> FastAPI:
    """The service around a loop, which runs while the service does.

    Args:
        loop: Not yet running.
        token: That writes must bring as ``Authorization: Bearer <token>``.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=loop.run, name="loop")
        thread.start()
        try:
            yield
        finally:
            loop.stop()
            thread.join()

    app = FastAPI(title="leanloop", version="1", lifespan=lifespan)

    def writer(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(401, "writes need the token of the workspace: monitoring/token")

    def known(model: str) -> None:
        if model not in loop.models():
            raise HTTPException(404, f"no model of this name is served: {model}")

    _add_guards(app)
    _add_reads(app, loop)

    @app.post("/v1/labels", dependencies=[Depends(writer)])
    def add_labels(body: LabelsIn) -> LabelsOut:
        """Tell what was right; saying it again changes nothing, and requests that were not captured may be named."""
        known(body.model)
        return LabelsOut(**asdict(loop.labels.add(body.model, body.labels)))

    @app.post("/v1/alerts", dependencies=[Depends(writer)])
    def receive_alerts(message: AlertMessage) -> AlertsOut:
        """Alertmanager's webhook: written down, then acknowledged; the loop looks at once."""
        told = loop.alerts.receive(message, loop.models())
        if told.new:
            loop.wake()
        return AlertsOut(**asdict(told))

    @app.post("/v1/runs", dependencies=[Depends(writer)], status_code=202)
    def start_run(body: RunIn) -> RunRequest:
        """Ask for a run; it starts at the next look, and goes on when this service dies."""
        known(body.model)
        asked = loop.runs.request(body.model, body.kind, body.reason, since=body.since)
        loop.wake()
        return asked

    @app.post("/v1/reports", dependencies=[Depends(writer)], status_code=202)
    def start_report(body: ReportIn) -> ReportOut:
        """Ask for Evidently's reports on a model's newest window; they are there some seconds later."""
        known(body.model)
        return ReportOut(name=loop.report_now(body.model))

    @app.post("/v1/rollback", dependencies=[Depends(writer)])
    def roll_back(body: RollBackIn) -> VersionOut:
        """Let the version before the champion answer again."""
        known(body.model)
        loop.server.roll_back(body.model, body.reason, None)
        loop.wake()
        config = loop.server.repository.config(body.model)
        assert config is not None, "what was rolled back is served"
        return VersionOut(model=body.model, version=max(config.versions))

    return app


def _add_reads(app: FastAPI, loop: Loop) -> None:
    collector = LoopCollector(lambda: loop.view)

    @app.get("/v1/health")
    def health() -> HealthOut:
        """Answers as soon as the service does; ``last_tick`` tells whether the loop looks."""
        return HealthOut(last_tick=loop.view.tick)

    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """For Prometheus."""
        return Response(exposition(collector), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/status")
    def status() -> LoopView:
        """What the loop knows."""
        return loop.view

    @app.get("/v1/incidents")
    def incidents(model: str | None = None, most: Annotated[int, Field(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """The newest incidents, newest first, with the names of the alerts that belong to each."""
        found = loop.incidents.latest(most, model)
        alerts = loop.alerts.of([incident.id for incident in found])
        return [asdict(incident) | {"alerts": alerts[incident.id]} for incident in found]

    @app.get("/v1/reports/{name}/{kind}", response_class=FileResponse)
    def report(name: Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,128}$")], kind: ReportKind) -> FileResponse:
        """Evidently's report on an incident, by its id, or on a window that was asked for."""
        found = loop.explainer.report(name, kind)
        if found is None:
            raise HTTPException(404, "no such report, or not yet")
        return FileResponse(found, media_type="text/html")

    @app.get("/v1/runs")
    def runs(model: str | None = None, most: Annotated[int, Field(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """The newest runs, newest first."""
        return [
            {
                **entry.request.model_dump(),
                "state": entry.state,
                "requested": entry.requested,
                "ended": entry.ended,
                "attempts": entry.attempts,
                "result": None if entry.result is None else entry.result.model_dump(),
            }
            for entry in loop.runs.entries(model, most=most)
        ]


def _add_guards(app: FastAPI) -> None:
    @app.middleware("http")
    async def limit_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length")
        if request.method == "POST" and (length is None or not length.isdecimal()):
            return JSONResponse({"detail": "a body needs its length"}, 411)
        if length is not None and int(length) > MOST_BYTES:
            return JSONResponse({"detail": f"a body may have {MOST_BYTES} bytes"}, 413)
        return await call_next(request)

    @app.exception_handler(LeanloopError)
    async def refused(_: Request, error: LeanloopError) -> JSONResponse:
        document = {"what": error.what, "where": error.where, "value": str(error.value), "fix": error.fix}
        return JSONResponse({"detail": document}, 409)

    @app.exception_handler(OperationalError)
    async def overloaded(_: Request, error: OperationalError) -> JSONResponse:
        log.error("the database does not take it: %s", error)
        return JSONResponse({"detail": "the database does not take it now; try again"}, 503)
