"""Triton and its small models, for the tests of the loop."""

from tests.serving.conftest import home, models

__all__ = ["home", "models"]
