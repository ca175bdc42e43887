"""What Prometheus scrapes, and whom it tells: ``prometheus.yml``."""

from __future__ import annotations

from typing import Any

import yaml

from leanloop.core.settings import Settings
from leanloop.monitoring.stack.timing import duration, scrape_seconds

RULES_FILE = "rules.yml"
"""Beside ``prometheus.yml``."""


def render(settings: Settings) -> str:
    """The configuration as YAML; without Alertmanager, alerts are only shown."""
    monitoring = settings.monitoring
    interval = duration(scrape_seconds(monitoring.slo))
    document: dict[str, Any] = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [RULES_FILE],
        "scrape_configs": [
            _job("triton", settings.serving.metrics_url),
            _job("leanloop", monitoring.service_url),
        ],
    }
    if monitoring.alertmanager_url:
        document["alerting"] = {
            "alertmanagers": [{"static_configs": [{"targets": [monitoring.alertmanager_url]}]}],
        }
    return yaml.safe_dump(document, sort_keys=False)


def _job(name: str, address: str) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [address]}]}
