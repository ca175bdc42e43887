"""Promotion: the running server starts to answer with a new version, or everything stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from leanloop.core.contracts import ServingChoice
from leanloop.core.errors import ServingError
from leanloop.serving.client import TritonClient, internal_id
from leanloop.serving.golden import check_roughly
from leanloop.serving.journal import Journal, Rollout
from leanloop.serving.model_config import FILE_NAME, CaptureChoice, ModelConfig, ModelSpec
from leanloop.serving.repository import ModelRepository, Package

FLOOR = 1
"""Version 1 of every model is the original itself: the first champion, and the floor to roll back to."""


@dataclass(frozen=True)
class Promotion:
    """What serves now.

    Attributes:
        version: Answers a request that names no version.
        versions: All loaded versions, with the artifact that each holds.
        previous: Answered before; None at the first promotion.
        rollout: The journal's record of it.
    """

    version: int
    versions: dict[int, str]
    previous: int | None
    rollout: Rollout


def promote(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    rollout: Rollout,
    spec: ModelSpec,
    packages: Sequence[Package],
    choice: ServingChoice,
    capture: CaptureChoice | None = None,
    *,
    bake: timedelta | None = None,
) -> Promotion:
    """Let the last package answer, and keep the original, the other packages and the previous champion loaded.

    The packages become versions (one that is there already keeps its number), ``config.pbtxt`` names the loaded
    versions, one load switches them all at once, and golden queries prove the result. Triton answers with
    the highest loaded version, so versions above the new champion are let go.

    Args:
        client: Of the server that reads the repository.
        repository: Where it reads.
        journal: Of its rollouts.
        rollout: Begun and validated.
        spec: Name and tensors.
        packages: The original first, the one that shall answer last; the original alone may be both.
        choice: Instances, threads and batching for all versions.
        capture: Which requests to keep; None keeps none.
        bake: How long somebody watches the new version before it counts as good; None when nobody does.

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
        for number, package in zip(numbers, packages, strict=True):
            journal.keep_golden(spec.name, number, package.golden)
        return _switch(client, repository, journal, rollout, before, spec, numbers, choice, capture, bake)


def promote_again(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    rollout: Rollout,
    versions: tuple[int, int],
    choice: ServingChoice,
    *,
    bake: timedelta | None = None,
) -> Promotion:
    """Like `promote`, for versions that are on the disk of a model that serves.

    Args:
        client: Of the server that reads the repository.
        repository: Where it reads.
        journal: Of its rollouts.
        rollout: Begun and validated.
        versions: The original that it was made from, and the one that shall answer; they may be the same.
        choice: Instances, threads and batching for all versions.
        bake: How long somebody watches it before it counts as good; None when nobody does.

    Raises:
        ServingError: It could not be done and was undone; what served before serves on.
    """
    with repository.locked():
        before = repository.served(rollout.model)
        capture = before.capture
        return _switch(client, repository, journal, rollout, before, before.spec, versions, choice, capture, bake)


def _switch(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    rollout: Rollout,
    before: ModelConfig | None,
    spec: ModelSpec,
    numbers: Sequence[int],
    choice: ServingChoice,
    capture: CaptureChoice | None,
    bake: timedelta | None,
) -> Promotion:
    champion = numbers[-1]
    kept = {FLOOR, *numbers, *([] if before is None else [max(before.versions)])}
    after = ModelConfig(
        spec=spec,
        versions=tuple(sorted(version for version in kept if version <= champion)),
        choice=choice,
        capture=capture,
    )
    rollout = journal.move(
        rollout,
        "promoting",
        version=champion,
        parent=numbers[0],
        before=before,
        after=after,
        bake_seconds=None if bake is None else bake.total_seconds(),
    )
    rollout = finish_promotion(client, repository, journal, rollout)
    artifacts = {version: str(repository.runtime(spec.name, version)["artifact_id"]) for version in after.versions}
    return Promotion(champion, artifacts, rollout.previous, rollout)


def finish_promotion(
    client: TritonClient, repository: ModelRepository, journal: Journal, rollout: Rollout, reason: str = ""
) -> Rollout:
    """Do what a rollout in the state ``promoting`` meant to do; the repository is locked, and doing it twice is fine.

    Raises:
        ServingError: It could not be done; it was undone, unless the server could not be told to go back.
    """
    assert rollout.after is not None, "a promotion names what shall serve"
    model = rollout.model
    try:
        rollout.after.save(repository.folder(model))
        client.load(model)
        _verify(client, journal, rollout.after)
    except BaseException as error:
        undo_promotion(client, repository, journal, rollout, error)
        if not isinstance(error, ServingError):
            raise
        raise ServingError(
            "The new version was not promoted; what served before serves on.",
            where=f"{model} version {rollout.version}",
            value=error,
            fix="See Triton's log (`leanloop serve status` names it).",
        ) from error
    if rollout.bake_seconds is None:
        return journal.move(rollout, "baked", reason or "nobody watches it")
    deadline = datetime.now(UTC) + timedelta(seconds=rollout.bake_seconds)
    return journal.move(rollout, "promoted", reason, deadline=deadline)


def undo_promotion(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    rollout: Rollout,
    cause: BaseException | str,
) -> Rollout:
    """Let serve what served before a rollout that is in the state ``promoting``; doing it twice is fine.

    Raises:
        ServingError: The server could not be told; the repository is as it was, and the rollout stays ``promoting``.
    """
    folder = repository.folder(rollout.model)
    try:
        if rollout.before is None:
            (folder / FILE_NAME).unlink(missing_ok=True)
            client.unload(rollout.model)
        else:
            rollout.before.save(folder)
            client.load(rollout.model)
    except ServingError as error:
        raise ServingError(
            "The new version was not promoted, and the server could not be told to go back.",
            where=f"{rollout.model} at {client.grpc_url}",
            value=f"{cause}\nthen, when going back: {error}",
            fix="The repository is as it was: restart with `leanloop serve down` and `leanloop serve up`.",
        ) from (cause if isinstance(cause, BaseException) else error)
    return journal.move(rollout, "discarded", str(cause).splitlines()[0] if str(cause) else type(cause).__name__)


def verify_champion(client: TritonClient, journal: Journal, model: str, version: int) -> None:
    """Ask one golden query, without naming a version: the champion must answer, and rightly.

    Raises:
        ServingError: It does not.
    """
    golden = journal.golden(model, version)
    if golden is None:
        answered = client.answer(model, client.zeros(model), request_id=internal_id()).version
    else:
        answered = check_roughly(client, model, golden, samples=1)
    if answered != version:
        raise ServingError(
            "Another version than the promoted one answers.",
            where=f"{model} at {client.grpc_url}",
            value=f"version {answered}, expected {version}",
            fix="Check that the server reads the repository that leanloop writes: serving.repository.",
        )


def _verify(client: TritonClient, journal: Journal, config: ModelConfig) -> None:
    model = config.spec.name
    for version in config.versions:
        golden = journal.golden(model, version)
        if golden is not None:
            check_roughly(client, model, golden, version=version)
        else:
            client.answer(model, client.zeros(model, version), version, internal_id())
    verify_champion(client, journal, model, max(config.versions))
