"""What Prometheus says: its firing alerts, which the loop reads itself before it acts, and instead of Alertmanager."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from leanloop.core.errors import ServingError

_FNV_OFFSET, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
_SEPARATOR = b"\xff"


@dataclass(frozen=True)
class ActiveAlert:
    """One firing alert.

    Attributes:
        labels: All of them; ``alertname`` and ``model`` among them.
        since: When its condition began to hold, as Prometheus gives it; before it fired, where the rule waits.
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
        """The one that Alertmanager tells it under."""
        return fingerprint(self.labels)


def fingerprint(labels: Mapping[str, str]) -> str:
    """A label set's fingerprint, as Alertmanager computes it: 64-bit FNV-1a over the sorted names and values.

    Source: ``labelSetToFingerprint`` in github.com/prometheus/common, model/signature.go.

    >>> fingerprint({})
    'cbf29ce484222325'
    """
    digest = _FNV_OFFSET
    for name in sorted(labels):
        for byte in name.encode() + _SEPARATOR + labels[name].encode() + _SEPARATOR:
            digest = (digest ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"


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
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
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
