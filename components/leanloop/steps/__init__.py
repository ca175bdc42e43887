"""The line, step by step: what the KFP components, the CLI and the DVC stages all call.

Every step is a module with one function ``run(settings, *, ...)`` whose arguments are folders that it reads and one
that it writes, whole or not at all. A step touches nothing else but the URLs in the settings.

    bundle -> analyze -> optimize (parallel workers) -> convert -> benchmark -> select -> deploy

A re-optimisation of a served model has first steps of its own, and then goes on as the line does:

    snapshot -> revise -> analyze -> remake -> convert -> benchmark -> select -> deploy
"""
