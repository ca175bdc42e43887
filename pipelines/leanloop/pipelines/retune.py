"""The smallest repair of what serves too slowly: other instances and batching, or another finalist. No training."""

from kfp import dsl

from leanloop.kfp import components


@dsl.pipeline(  # type: ignore[untyped-decorator]
    name="leanloop-retune", description="Serves a model otherwise, without training, where that is faster."
)
def retune(
    settings: str,
    release: str,
    concurrency: int,
    incident: str,
    code_version: str,
    image: str = components.IMAGE,
) -> dsl.Artifact:
    """Retune.

    Args:
        settings: `leanloop.core.settings.Settings` as JSON, paths absolute.
        release: What serves: `leanloop.core.contracts.Release` as JSON.
        concurrency: Requests under way at the same time, as live traffic has them.
        incident: That it shall end; empty when a person asked.
        code_version: Version of leanloop; part of every cache key.
        image: Container image of the step, best by digest.

    Returns:
        The release.
    """
    found = components.retune(
        settings=settings, release=release, concurrency=concurrency, incident=incident, code_version=code_version
    )
    found.set_container_image(image)
    # What it does depends on the server and its traffic, that no cache key knows.
    found.set_caching_options(enable_caching=False)
    return found.output
