"""Where alerts go: ``alertmanager.yml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.stack.timing import duration

WEBHOOK_PATH = "/v1/alerts"
"""Of leanloop's service."""

_GROUP_WAIT_SECONDS = 10.0
_GROUP_INTERVAL_SECONDS = 60.0
_REPEAT_SECONDS = 4 * 3600.0

_SHORTEST_WAIT_SECONDS = 1.0
_SHORTEST_INTERVAL_SECONDS = 10.0
"""Alertmanager repeats a failed webhook for one such interval, and takes none shorter than 10 s for that."""
_SHORTEST_REPEAT_SECONDS = 60.0


def render(settings: MonitoringSettings, token: Path) -> str:
    """The configuration as YAML: everything goes to leanloop's service, by model and alert, ended alerts too.

    What pages also goes to the webhook of `MonitoringSettings.notify_url`, where there is one.

    Args:
        settings: The addresses of the service and of that webhook, and the scale of all windows.
        token: File with the bearer token of the service.
    """
    scale = settings.slo.window_scale
    document: dict[str, Any] = {
        "route": {
            "receiver": "leanloop",
            "group_by": ["model", "alertname"],
            "group_wait": duration(max(_GROUP_WAIT_SECONDS * scale, _SHORTEST_WAIT_SECONDS)),
            "group_interval": duration(max(_GROUP_INTERVAL_SECONDS * scale, _SHORTEST_INTERVAL_SECONDS)),
            "repeat_interval": duration(max(_REPEAT_SECONDS * scale, _SHORTEST_REPEAT_SECONDS)),
        },
        # What pages needs no ticket, too.
        "inhibit_rules": [
            {
                "source_matchers": ['severity="page"'],
                "target_matchers": ['severity="ticket"'],
                "equal": ["model", "version", "alertname"],
            }
        ],
        "receivers": [
            {
                "name": "leanloop",
                "webhook_configs": [
                    {
                        "url": f"http://{settings.service_url}{WEBHOOK_PATH}",
                        "send_resolved": True,
                        "http_config": {"authorization": {"type": "Bearer", "credentials_file": str(token)}},
                    }
                ],
            }
        ],
    }
    if settings.notify_url:
        document["route"]["routes"] = [
            {"matchers": ['severity="page"'], "receiver": "person", "continue": True},
            {"receiver": "leanloop"},
        ]
        person = {"url": settings.notify_url, "send_resolved": True}
        document["receivers"].append({"name": "person", "webhook_configs": [person]})
    return yaml.safe_dump(document, sort_keys=False)
