"""Which operators a target runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from leanloop.analyze.coverage import COVERAGE, operator_coverage
from leanloop.convert import TARGETS, Target
from tests.analyze.conftest import chain

LAYERS = {"a": np.ones((4, 4), np.float32), "b": np.ones((4, 4), np.float32)}


@pytest.mark.parametrize("target", sorted(COVERAGE))
def test_a_known_model_is_covered(target: str, saved: Path) -> None:
    onnx.save(chain(LAYERS, 4), saved)
    found = COVERAGE[target](saved)
    assert found.supported
    assert found.unsupported == ()
    assert 2 <= found.quantisable <= found.operators
    assert "2 MatMul" in found.note


@pytest.mark.parametrize("target", sorted(COVERAGE))
def test_an_operator_that_nobody_knows_is_named(target: str, saved: Path) -> None:
    onnx.save(chain(LAYERS, 4, domain="acme", last="Frobnicate"), saved)
    found = COVERAGE[target](saved)
    assert not found.supported
    assert found.unsupported == ("acme.Frobnicate",)
    assert "acme.Frobnicate has no" in found.note


def test_a_contributed_operator_is_onnx_runtimes_own(saved: Path) -> None:
    onnx.save(chain(LAYERS, 4, domain="com.microsoft", last="CDist"), saved)
    (found,) = operator_coverage(saved, ["onnxruntime"])
    assert found.supported
    onnx.save(chain(LAYERS, 4, domain="com.microsoft", last="NoSuchThing"), saved)
    (found,) = operator_coverage(saved, ["onnxruntime"])
    assert found.unsupported == ("com.microsoft.NoSuchThing",)


def test_a_target_that_is_not_installed_says_so(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "can_run", lambda self: f"{self.name} is not installed")
    assert set(COVERAGE) == set(TARGETS)
    for found in operator_coverage(saved, sorted(TARGETS)):
        assert not found.supported
        assert found.note == f"{found.target} is not installed."
