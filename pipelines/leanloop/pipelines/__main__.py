"""``python -m leanloop.pipelines`` is the ``leanloop`` command."""

from leanloop.pipelines.cli import main

main()
