from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from leanloop.core.settings import Settings, parse_settings
from leanloop.core.workspace import with_absolute_paths


def stack_settings(workspace: Path, **monitoring: object) -> Settings:
    """Settings of a stack on free ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        http, grpc, metrics, *others = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    urls = dict(zip(("service_url", "prometheus_url", "alertmanager_url"), others, strict=True))
    settings = parse_settings(
        {
            "model": {"name": "m", "file": "m.onnx", "inputs": [{"name": "x", "shape": [4]}]},
            "data": {"source": "data.npz"},
            "serving": {"http_url": http, "grpc_url": grpc, "metrics_url": metrics},
            "monitoring": urls | monitoring,
            "workspace": str(workspace),
        },
        source="test",
    )
    return with_absolute_paths(settings, workspace.parent)
