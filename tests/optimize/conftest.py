"""The digits example, packed once: a real residual network with trained weights, small enough to train here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leanloop.bundle import Bundle, pack
from leanloop.core.child import Child
from leanloop.core.settings import Settings, load_settings, parse_settings
from leanloop.core.store import Store
from leanloop.optimize import Workshop
from leanloop.optimize.apply import make_onnx
from tests.optimize.workshops import Workshops

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(EXAMPLE / "params.yaml", {"workspace": str(tmp_path_factory.mktemp("workspace"))})


@pytest.fixture(scope="session")
def bundle(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("digits") / "bundle"
    pack(settings, EXAMPLE, folder)
    return Bundle(folder)


@pytest.fixture(scope="session")
def small(settings: Settings) -> Settings:
    """A space of one target and few ways, so that a search ends in seconds, and time enough that it ends by itself."""
    document = settings.model_dump(mode="json")
    document["targets"] = ["onnxruntime"]
    document["optimize"] |= {
        "techniques": ["channel_pruning", "distillation", "ort_static_int8"],
        "max_trials": 2,
        "budget_minutes": 8,
    }
    return parse_settings(document, source="test")


@pytest.fixture(scope="session")
def workshop(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(bundle, Store(str(tmp_path_factory.mktemp("store"))), threads=1)


@pytest.fixture(scope="session")
def onnx(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "files" / "model.onnx"
    make_onnx((), workshop, path)
    return path


@pytest.fixture(scope="session")
def workshops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshops]:
    """Of all kinds; the processes of a session that tests in several share them."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "workshops"
    folder.mkdir(exist_ok=True)
    with Child() as child:
        yield Workshops(folder, child)
