"""Pages reach somebody whatever is broken, and are not told again and again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.pager import Pager
from leanloop.serving import Ports

NOW = 1_000_000.0


@dataclass
class Listener:
    """Stands for Alertmanager or the owner's webhook: keeps what it is told, and answers with a status."""

    port: int = 0
    told: list[tuple[str, Any]] = field(default_factory=list)
    status: int = 200

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.told.append((self.path, json.loads(body)))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def test_blindness_is_told_to_alertmanager_once_in_hours(listener: Listener) -> None:
    pager = Pager(MonitoringSettings(alertmanager_url=listener.address))
    for later in (0, 5, 3600):
        pager.blind("Prometheus does not answer", NOW + later)
    ((path, (alert,)),) = listener.told
    assert path == "/api/v2/alerts"
    assert alert["labels"] == {"alertname": "MonitorBlind", "severity": "page", "question": "latency"}
    assert alert["annotations"]["summary"] == "Prometheus does not answer"
    pager.blind("Prometheus does not answer", NOW + 4 * 3600)
    assert len(listener.told) == 2
    pager.sees()
    pager.blind("again", NOW + 4 * 3600 + 5)
    assert len(listener.told) == 3


def test_without_alertmanager_the_webhook_is_told(listener: Listener) -> None:
    webhook = f"http://{listener.address}/page"
    nobody = f"127.0.0.1:{Ports.free().http}"
    for url in ("", nobody):
        Pager(MonitoringSettings(alertmanager_url=url, notify_url=webhook)).blind("gone", NOW)
    assert [path for path, _ in listener.told] == ["/page", "/page"]
    assert listener.told[0][1]["version"] == "4"
    assert listener.told[0][1]["alerts"][0]["annotations"]["summary"] == "gone"


def test_an_incident_is_told_by_the_loop_only_where_no_alertmanager_answers(listener: Listener) -> None:
    webhook = f"http://{listener.address}/page"
    with_one = Pager(MonitoringSettings(alertmanager_url=listener.address, notify_url=webhook))
    with_one.person_needed("i", "net", "no row fits", NOW)
    assert listener.told == []
    stopped = f"127.0.0.1:{Ports.free().http}"
    for url in ("", stopped):
        pager = Pager(MonitoringSettings(alertmanager_url=url, notify_url=webhook))
        for later in (0, 5, 3600):
            pager.person_needed("i", "net", "no row fits", NOW + later)
    assert [path for path, _ in listener.told] == ["/page", "/page"]
    assert listener.told[0][1]["alerts"][0]["labels"]["incident"] == "i"


def test_a_page_that_nobody_took_is_told_again_soon(listener: Listener) -> None:
    pager = Pager(MonitoringSettings(alertmanager_url="", notify_url=f"http://{listener.address}/page"))
    listener.status = 503
    pager.person_needed("i", "net", "no row fits", NOW)
    listener.status = 200
    for later in (5, 61, 65, 3600):
        pager.person_needed("i", "net", "no row fits", NOW + later)
    assert len(listener.told) == 2


def test_nobody_there_is_told_in_the_log_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    nobody = f"127.0.0.1:{Ports.free().http}"
    Pager(MonitoringSettings(alertmanager_url=nobody)).blind("gone", NOW)
    assert "PAGE MonitorBlind: gone" in caplog.text
    assert "could not be told" in caplog.text
