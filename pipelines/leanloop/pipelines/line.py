"""THE line: a trained model in, a served release out. One screen, read it whole."""

from typing import List

from kfp import dsl

from leanloop.kfp import components


@dsl.pipeline(  # type: ignore[untyped-decorator]
    name="leanloop-optimize", description="Makes a trained model small and fast, and serves it on Triton."
)
def optimize(
    settings: str,
    project: str,
    code_version: str,
    image: str = components.IMAGE,
    workers: List[int] = [0, 1],
) -> dsl.Artifact:
    """Bundle -> analyze -> optimize (parallel workers) -> convert -> benchmark -> select -> deploy.

    Args:
        settings: `leanloop.core.settings.Settings` as JSON, paths absolute.
        project: Folder that the settings' relative paths start from.
        code_version: Version of leanloop; part of every cache key.
        image: Container image of every step, best by digest.
        workers: A number per search worker.

    Returns:
        The release.
    """
    bundle = components.bundle(settings=settings, project=project, code_version=code_version)
    analysis = components.analyze(settings=settings, code_version=code_version, bundle=bundle.output)

    with dsl.ParallelFor(workers) as worker:
        search = components.optimize(
            settings=settings,
            worker=worker,
            code_version=code_version,
            bundle=bundle.output,
            analysis=analysis.output,
        )

    artifacts = components.convert(
        settings=settings,
        code_version=code_version,
        bundle=bundle.output,
        candidates=dsl.Collected(search.output),
    )
    benchmark = components.benchmark(
        settings=settings, code_version=code_version, bundle=bundle.output, artifacts=artifacts.output
    )
    verdict = components.select(
        settings=settings,
        code_version=code_version,
        bundle=bundle.output,
        analysis=analysis.output,
        artifacts=artifacts.output,
        benchmark=benchmark.output,
    )
    release = components.deploy(
        settings=settings,
        code_version=code_version,
        bundle=bundle.output,
        analysis=analysis.output,
        artifacts=artifacts.output,
        benchmark=benchmark.output,
        verdict=verdict.output,
    )

    for task in (bundle, analysis, search, artifacts, benchmark, verdict, release):
        task.set_container_image(image)
    for task in (bundle, benchmark, release):
        # What they do depends on files, machines and servers that no cache key knows.
        task.set_caching_options(enable_caching=False)
    return release.output
