"""What Prometheus says: its firing alerts, which the loop reads itself before it acts, and instead of Alertmanager."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime

from leanloop.core.errors import ServingError


@dataclass(frozen=True)
class ActiveAlert:
    """One firing alert.

    Attributes:
        labels: All of them; ``alertname`` and ``model`` among them.
        since: As Prometheus gives it.
    """

    labels: dict[str, str]
    since: datetime

    @property
    def name(self) -> str:
        """Which alert."""
        return self.labels["alertname"]

    @property
    def model(self) -> str:
        """About which model; empty when it is about none."""
        return self.labels.get("model", "")

    @property
    def fingerprint(self) -> str:
        """Equal for equal labels."""
        return hashlib.sha256(json.dumps(self.labels, sort_keys=True).encode()).hexdigest()


def firing_alerts(url: str, *, timeout: float = 3.0) -> tuple[ActiveAlert, ...]:
    """The alerts that fire now.

    Args:
        url: ``host:port`` of Prometheus.
        timeout: Seconds.

    Raises:
        ServingError: It does not answer.
    """
    address = f"http://{url}/api/v1/alerts"
    try:
        with urllib.request.urlopen(address, timeout=timeout) as response:
            document = json.load(response)
    except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
        raise ServingError(
            "Prometheus does not answer: latency and errors cannot be watched.",
            where=address,
            value=error,
            fix="See `leanloop status`; `leanloop up` starts it.",
        ) from error
    return tuple(
        ActiveAlert(dict(alert["labels"]), datetime.fromisoformat(alert["activeAt"]))
        for alert in document["data"]["alerts"]
        if alert["state"] == "firing"
    )
