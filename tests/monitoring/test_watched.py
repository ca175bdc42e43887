"""What is remembered between two looks: when the golden answers are asked for."""

from __future__ import annotations

from typing import Any, cast

from leanloop.monitoring.server import Probe, Server
from leanloop.monitoring.watched import Watched
from leanloop.serving import VersionHealth


class Anything:
    """A release, the watch over it and its server, as far as they are looked at."""

    model, version = "net", 2

    def __init__(self) -> None:
        self.windows, self.asked = 0, 0

    def answers_rightly(self, served: Any) -> bool:
        self.asked += 1
        return True


PROBE = Probe(True, (VersionHealth("net", 2, True, 1.0, ""),), ())


def test_golden_answers_are_asked_for_now_and_then_and_beside_every_judged_window() -> None:
    world = Anything()
    watched = Watched(cast(Any, world), cast(Any, world))

    def look(times: int = 1) -> int:
        before = world.asked
        for _ in range(times):
            watched.ask(cast(Server, world), PROBE, 0.0)
        return world.asked - before

    assert look() == 1
    assert look(11) == 0
    assert look() == 1
    assert look() == 0
    # A window that judges changed weights as a changed world would lead to the wrong repair.
    world.windows += 1
    assert look() == 1
    assert look(3) == 0
