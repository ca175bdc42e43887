"""Pages that must not depend on what is broken: told to Alertmanager, or straight to the owner's webhook without it.

Pages are usually alerts of Prometheus (`leanloop.monitoring.stack.rules`). When Prometheus is gone, or no Alertmanager
answers, the loop tells itself. A page is told again from time to time, as Alertmanager would.
"""

from __future__ import annotations

import http.client
import json
import logging
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from leanloop.core.settings import MonitoringSettings
from leanloop.serving.process import answers

log = logging.getLogger(__name__)

BLIND = "MonitorBlind"
PERSON_NEEDED = "PersonNeeded"

_AGAIN_SECONDS = 4 * 3600.0
_UNHEARD_AGAIN_SECONDS = 60.0
"""After a page that neither Alertmanager nor the webhook took."""

_LASTS = timedelta(minutes=5)
_TIMEOUT_SECONDS = 3.0


class Pager:
    """Tells a person.

    Args:
        settings: Where Alertmanager and the owner's webhook are.
    """

    def __init__(self, settings: MonitoringSettings) -> None:
        self._alertmanager, self._webhook = settings.alertmanager_url, settings.notify_url
        self._due: dict[str, float] = {}

    def blind(self, reason: str, now: float) -> None:
        """Prometheus does not answer: nobody else will say so."""
        self._tell(BLIND, {"alertname": BLIND, "severity": "page", "question": "latency"}, reason, now)

    def sees(self) -> None:
        """Prometheus answers again: the next time is told at once."""
        self._due.pop(BLIND, None)

    def person_needed(self, incident: str, model: str, reason: str, now: float) -> None:
        """An incident needs a person; where an Alertmanager answers, Prometheus' own alert tells it."""
        if self._alertmanager and answers(self._alertmanager, "/-/ready"):
            return
        labels = {"alertname": PERSON_NEEDED, "severity": "page", "model": model, "incident": incident}
        self._tell(incident, labels, reason, now)

    def _tell(self, key: str, labels: Mapping[str, str], reason: str, now: float) -> None:
        if now < self._due.get(key, now):
            return
        self._due[key] = now + _AGAIN_SECONDS
        log.error("PAGE %s: %s", labels["alertname"], reason)
        begins = datetime.fromtimestamp(now, UTC)
        alert = {
            "labels": dict(labels),
            "annotations": {"summary": reason},
            "startsAt": begins.isoformat(),
            "endsAt": (begins + _LASTS).isoformat(),
        }
        if self._alertmanager and _post(f"http://{self._alertmanager}/api/v2/alerts", [alert]):
            return
        message = {"version": "4", "status": "firing", "alerts": [alert | {"status": "firing"}]}
        # Without either address the log is all that was asked for.
        heard = _post(self._webhook, message) if self._webhook else not self._alertmanager
        if not heard:
            self._due[key] = now + _UNHEARD_AGAIN_SECONDS


def _post(url: str, document: Any) -> bool:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
            return True
    except (OSError, http.client.HTTPException) as error:
        log.error("a page could not be told to %s: %s", url, error)
        return False
