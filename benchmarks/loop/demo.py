"""The story of a repair, lived through on a running stack: how long it takes, and what those who ask notice of it.

The champion is served by the whole stack (Triton, Prometheus, Alertmanager, leanloop's service); images are turned,
labels come seconds later, and nobody helps. Latency is what the clients saw, so it holds all queueing.

    .venv/bin/python benchmarks/loop/demo.py
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from leanloop.core.files import write_json
from leanloop.monitoring import stack
from leanloop.pipelines.demo.story import Story, tell_story
from leanloop.pipelines.demo.traffic import read_samples

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import champion, topic

SHIFT, SEVERITY, RATE, LABEL_DELAY = "rotation", 4, 40.0, 5.0
MOST_MINUTES = 10.0


def figures(out: Path, seed: int) -> list[Figure]:
    """Live through the story once; the stack is ended afterwards."""
    settings = champion.settings(out)
    stack.up(settings, champion.ROOT)
    try:
        story = tell_story(
            settings,
            read_samples(settings),
            lambda seconds, text: print(f"  {seconds:6.0f} s  {text}", flush=True),
            shift=SHIFT,
            severity=SEVERITY,
            rate=RATE,
            label_delay=LABEL_DELAY,
            seed=seed,
        )
    finally:
        stack.down(settings)
    write_json(out / f"demo-{seed}.json", asdict(story))
    return _figures(story, settings.monitoring.slo.latency_p99_ms)


def _figures(story: Story, slo_ms: float) -> list[Figure]:
    before, during, after = (chapter.sent for chapter in story.chapters)
    lines = [Figure(f"demo: accuracy {chapter.name}", 100 * chapter.sent.accuracy, "%") for chapter in story.chapters]
    return [
        *lines,
        Figure("demo: share of the loss that was won back, live", 100 * story.won_back, "%", at_least=80),
        Figure("demo: shift to promotion", story.seconds / 60, "min", at_most=MOST_MINUTES),
        Figure("demo: p99 that clients saw before", before.p99_ms, "ms"),
        Figure("demo: p99 that clients saw during the repair", during.p99_ms, "ms", at_most=slo_ms),
        Figure("demo: requests", sum(part.requests for part in (before, during, after)), "requests"),
        Figure("demo: failed requests", sum(part.failed for part in (before, during, after)), "requests", at_most=0),
    ]


if __name__ == "__main__":
    sys.exit(topic.main(figures, __doc__))
