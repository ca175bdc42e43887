"""The service's process: the monitor of `leanloop.monitoring`, given what starts runs here."""

from __future__ import annotations

import logging
from pathlib import Path

from leanloop.core.settings import Settings
from leanloop.core.workspace import Workspace
from leanloop.monitoring.database import open_database
from leanloop.monitoring.loop import Loop
from leanloop.monitoring.service import make_app
from leanloop.monitoring.stack.plan import token_file
from leanloop.pipelines.launcher import LocalLauncher
from leanloop.serving.process import loopback_port
from leanloop.serving.secret import kept_secret


def serve(settings: Settings, project: Path) -> None:
    """Serve until the process is told to end.

    Args:
        settings: With absolute paths.
        project: Folder that relative paths of new models start from.

    Raises:
        ServingError: The service's address is not on this machine's loopback.
    """
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    workspace = Workspace(settings)
    loop = Loop(settings, open_database(workspace.database_url), LocalLauncher(settings, project))
    token = kept_secret(token_file(workspace))
    app = make_app(loop, token)
    address = settings.monitoring.service_url
    port = loopback_port(address, "monitoring.service_url", "")
    uvicorn.run(app, host=address.rpartition(":")[0], port=port, log_config=None, access_log=False)
