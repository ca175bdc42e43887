"""Search workers as processes, as a pipeline starts them, and what one writes of a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from leanloop.bundle import Bundle
from leanloop.core.contracts import TrialRow
from leanloop.core.settings import Settings
from leanloop.optimize import Recipe

_CODE = """
import sys
from pathlib import Path
from leanloop.bundle import Bundle
from leanloop.core.contracts import Analysis
from leanloop.core.events import step_events
from leanloop.core.settings import Settings
from leanloop.optimize import search_worker

bundle, settings, destination, worker, before = sys.argv[1:]
exec(before)
analysis = Analysis.model_construct(metric=1.0, sensitivity=())
with step_events("optimize", int(worker)):
    search_worker(Bundle(Path(bundle)), analysis, Settings.from_json(settings), Path(destination), int(worker))
"""


def start_worker(
    bundle: Bundle, settings: Settings, root: Path, worker: int, events: Path, before: str = ""
) -> subprocess.Popen[bytes]:
    """Start a worker that writes into ``root/<worker>`` and reports to ``events``; ``before`` is code to run first."""
    arguments = [str(bundle.folder), settings.to_json(), str(root / str(worker)), str(worker), before]
    environment = {**os.environ, "LEANLOOP_EVENTS": str(events), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-c", _CODE, *arguments], env=environment)


def trial_row(seconds: float = 0.0) -> TrialRow:
    """A trial that no time was left for."""
    return TrialRow(
        trial=0,
        recipe=Recipe("onnxruntime").record(),
        candidate_id="c",
        state="pruned",
        rung="short",
        latency_ms=None,
        metric=None,
        size_bytes=None,
        seconds=seconds,
        reason="no time",
    )
