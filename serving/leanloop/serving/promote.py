"""Promotion: the running server starts to answer with a new version, or everything stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leanloop.core.contracts import ServingChoice
from leanloop.core.errors import ServingError
from leanloop.serving.client import TritonClient, internal_id
from leanloop.serving.golden import check_golden
from leanloop.serving.model_config import FILE_NAME, CaptureChoice, ModelConfig, ModelSpec
from leanloop.serving.repository import ModelRepository, Package


@dataclass(frozen=True)
class Promotion:
    """What serves now.

    Attributes:
        version: Answers a request that names no version.
        versions: All loaded versions, with the artifact that each holds.
        previous: Answered before; None at the first promotion.
    """

    version: int
    versions: dict[int, str]
    previous: int | None


def promote(
    client: TritonClient,
    repository: ModelRepository,
    spec: ModelSpec,
    packages: Sequence[Package],
    choice: ServingChoice,
    capture: CaptureChoice | None = None,
) -> Promotion:
    """Let the last package answer, and keep the others and the previous champion loaded.

    The packages become versions (one that is there already keeps its number), ``config.pbtxt`` names the loaded
    versions, one load switches them all at once, and golden queries prove the result. Triton answers with
    the highest loaded version, so versions above the new champion are let go.

    Args:
        client: Of the server that reads the repository.
        repository: Where it reads.
        spec: Name and tensors.
        packages: The original first, the one that shall answer last; the original alone may be both.
        choice: Instances, threads and batching for all versions.
        capture: Which requests to keep; None keeps none.

    Raises:
        ServingError: It could not be done and was undone; what served before serves on.
    """
    with repository.locked():
        before = repository.config(spec.name)
        if before is not None and before.spec != spec:
            raise ServingError(
                "The model's inputs or outputs are not those of the model that serves under this name.",
                where=str(repository.folder(spec.name)),
                value=spec.name,
                fix="Give the model another name: model.name in params.yaml.",
            )
        numbers = [repository.place(spec, package, choice.threads) for package in packages]
        champion = numbers[-1]
        previous = max(before.versions) if before is not None else None
        kept = {*numbers, *([previous] if previous is not None else [])}
        config = ModelConfig(
            spec=spec,
            versions=tuple(sorted(version for version in kept if version <= champion)),
            choice=choice,
            capture=capture,
        )
        try:
            config.save(repository.folder(spec.name))
            client.load(spec.name)
            _verify(client, config, dict(zip(numbers, packages, strict=True)))
        except BaseException as error:
            _restore(client, repository, spec.name, before, error)
            if not isinstance(error, ServingError):
                raise
            raise ServingError(
                "The new version was not promoted; what served before serves on.",
                where=f"{spec.name} version {champion}",
                value=error,
                fix="See Triton's log (`leanloop serve status` names it).",
            ) from error
        return Promotion(
            version=champion,
            versions={
                version: str(repository.runtime(spec.name, version)["artifact_id"]) for version in config.versions
            },
            previous=previous,
        )


def _verify(client: TritonClient, config: ModelConfig, packages: dict[int, Package]) -> None:
    model, batch_size = config.spec.name, config.choice.max_batch_size
    for version in config.versions:
        if version in packages:
            check_golden(client, model, packages[version].golden, batch_size=batch_size, version=version)
        else:
            client.answer(model, client.zeros(model, version), version, internal_id())
    champion = max(config.versions)
    check_golden(client, model, packages[champion].golden, batch_size=batch_size)
    answered = client.answer(model, client.zeros(model), request_id=internal_id()).version
    if answered != champion:
        raise ServingError(
            "Another version than the promoted one answers.",
            where=f"{model} at {client.grpc_url}",
            value=f"version {answered}, expected {champion}",
            fix="Check that the server reads the repository that leanloop writes: serving.repository.",
        )


def _restore(
    client: TritonClient,
    repository: ModelRepository,
    model: str,
    before: ModelConfig | None,
    cause: BaseException,
) -> None:
    folder = repository.folder(model)
    try:
        if before is None:
            (folder / FILE_NAME).unlink(missing_ok=True)
            client.unload(model)
        else:
            before.save(folder)
            client.load(model)
    except ServingError as error:
        raise ServingError(
            "The new version was not promoted, and the server could not be told to go back.",
            where=f"{model} at {client.grpc_url}",
            value=f"{cause}\nthen, when going back: {error}",
            fix="The repository is as it was: restart with `leanloop serve down` and `leanloop serve up`.",
        ) from cause
