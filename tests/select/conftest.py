"""Makers of constructed benchmarks and runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leanloop.core.settings import GoalSettings
from tests.select.cases import Case, Spec
from tests.select.report_run import make_run


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """Makes what `render_report` takes; keywords change the goal."""
    return lambda **changes: dict(make_run(**changes))


@pytest.fixture
def goal() -> GoalSettings:
    """Lowest p50 latency at batch 1, 99 % of the accuracy."""
    return GoalSettings()


@pytest.fixture
def case() -> Callable[..., Case]:
    """Makes a case from variants."""
    return lambda *specs, **fields: Case(specs, **fields)


@pytest.fixture
def spec() -> type[Spec]:
    """One variant."""
    return Spec
