"""Triton and its small models, settings and a database, for the tests of the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from leanloop.core.settings import Settings
from leanloop.core.workspace import with_absolute_paths
from leanloop.monitoring.database import open_database
from tests.serving.conftest import home, models

__all__ = ["home", "models"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    document = {
        "model": {"name": "net", "file": "net.onnx", "inputs": [{"name": "x", "shape": [2]}]},
        "data": {"source": "data.npz"},
        "workspace": "workspace",
    }
    return with_absolute_paths(Settings.model_validate(document), tmp_path)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path / 'loop.db'}")
