"""The command line: thin faces over steps, launcher and serving."""

from __future__ import annotations

from leanloop.pipelines.cli.app import app, main

__all__ = ["app", "main"]
