"""The line again, for a model that serves: from what it was asked lately to a better release. One screen."""

from kfp import dsl

from leanloop.kfp import components


@dsl.pipeline(  # type: ignore[untyped-decorator]
    name="leanloop-reoptimize", description="Repairs a served model on fresh data, and serves it when it is better."
)
def reoptimize(
    settings: str,
    release: str,
    since: float,
    aim: str,
    incident: str,
    code_version: str,
    image: str = components.IMAGE,
) -> dsl.Artifact:
    """Snapshot -> revise -> analyze -> remake -> convert -> benchmark -> select -> replace.

    Args:
        settings: `leanloop.core.settings.Settings` as JSON, paths absolute.
        release: What serves: `leanloop.core.contracts.Release` as JSON.
        since: Unix time of the oldest request that counts as fresh.
        aim: What must get better: accuracy (learns from labels), agreement (with the parent) or latency.
        incident: That it shall end; empty when a person asked.
        code_version: Version of leanloop; part of every cache key.
        image: Container image of every step, best by digest.

    Returns:
        The release.
    """
    snapshot = components.snapshot(settings=settings, release=release, since=since, code_version=code_version)
    bundle = components.revise(
        settings=settings,
        aim=aim,
        code_version=code_version,
        champion=snapshot.outputs["champion"],
        snapshot=snapshot.outputs["snapshot"],
    )
    analysis = components.analyze(settings=settings, code_version=code_version, bundle=bundle.output)

    with dsl.ParallelFor([0]):  # KFP collects lists of artifacts from loops only
        recipe = components.remake(
            settings=settings,
            aim=aim,
            code_version=code_version,
            champion=snapshot.outputs["champion"],
            bundle=bundle.output,
            analysis=analysis.output,
        )

    artifacts = components.convert(
        settings=settings,
        code_version=code_version,
        bundle=bundle.output,
        candidates=dsl.Collected(recipe.output),
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
    better = components.replace(
        settings=settings,
        incident=incident,
        code_version=code_version,
        snapshot=snapshot.outputs["snapshot"],
        bundle=bundle.output,
        analysis=analysis.output,
        artifacts=artifacts.output,
        benchmark=benchmark.output,
        verdict=verdict.output,
    )

    for task in (snapshot, bundle, analysis, recipe, artifacts, benchmark, verdict, better):
        task.set_container_image(image)
    for task in (snapshot, benchmark, better):
        # What they do depends on traffic, machines and servers that no cache key knows.
        task.set_caching_options(enable_caching=False)
    return better.output
