"""What happens to a version after its promotion: it is accepted, rolled back, or mended after a crash."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from leanloop.core.contracts import ServingChoice
from leanloop.core.errors import ServingError
from leanloop.core.settings import ServingSettings
from leanloop.serving.client import TritonClient
from leanloop.serving.journal import INTERRUPTED, Journal, Rollout, State
from leanloop.serving.model_config import FILE_NAME, ModelConfig
from leanloop.serving.promote import (
    FLOOR,
    finish_promotion,
    promote_again,
    undo_promotion,
    verify_champion,
)
from leanloop.serving.repository import ModelRepository
from leanloop.serving.stage import stage


@dataclass(frozen=True)
class Mended:
    """A rollout that a crash had interrupted, as it is now, and what was done about it."""

    rollout: Rollout
    did: str


def roll_back(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    model: str,
    reason: str,
    *,
    to: int | None = None,
    incident: str | None = None,
) -> Rollout:
    """Let an earlier version answer again.

    A version that is still loaded answers after one call, in milliseconds, because nothing is loaded for it: the server
    keeps its instances and batching for the moment. Where the earlier version was served with others, they are set
    right after, and Triton keeps answering meanwhile. What is captured stays as it is.

    Args:
        client: Of the server that reads the repository.
        repository: Where it reads.
        journal: Of its rollouts.
        model: Name of the model.
        reason: For the journal.
        to: A version on the disk; None is the one that answered before the champion (the original, where none did).
        incident: Which one led to it.

    Returns:
        The champion's rollout, ``rolled_back`` now.

    Raises:
        ServingError: There is nothing to go back to, or it does not answer; then the champion serves on.
    """
    started = time.perf_counter()
    with repository.locked():
        config = repository.served(model)
        champion = max(config.versions)
        rollout = journal.serving(model, champion)
        if rollout is None:
            raise ServingError(
                "The version that serves has no rollout that could be rolled back.",
                where=f"{model} version {champion}",
                fix="Name what shall serve: `leanloop promote VERSION`.",
            )
        back = _way_back(repository, journal, rollout, config, to)
        former = rollout.state
        at_once = _at_once(back, config)
        changes = {} if incident is None else {"incident": incident}
        # What is meant appears before what is done, but the clients wait for one flush of the disk only.
        switch = {repository.folder(model) / FILE_NAME: at_once.render()}
        rollout = journal.move(rollout, "rolling_back", reason, then=switch, back=back, **changes)
        try:
            _load(client, journal, at_once)
            return _end_roll_back(client, repository, journal, rollout, at_once, started)
        except BaseException as error:
            _stay(client, repository, journal, rollout, config, former, error)
            raise


def finish_bake(
    client: TritonClient, repository: ModelRepository, journal: Journal, model: str, reason: str
) -> Rollout:
    """Accept the champion that is in its bake, and unload what is no longer needed.

    The original, the champion and the version that it was made from stay loaded. A crash half-way leaves the rollout
    ``promoted``: call it again.

    Raises:
        ServingError: The champion is not in a bake, or does not answer.
    """
    with repository.locked():
        config = repository.served(model)
        champion = max(config.versions)
        rollout = journal.serving(model, champion)
        if rollout is None or rollout.state != "promoted":
            raise ServingError(
                "No promotion of this model waits for a verdict.",
                where=f"{model} version {champion}",
                value=None if rollout is None else str(rollout),
                fix="`leanloop history` tells what happened to it.",
            )
        needed = {FLOOR, rollout.parent, champion}
        after = config.model_copy(update={"versions": tuple(one for one in config.versions if one in needed)})
        try:
            _serve(client, repository, journal, after)
        except BaseException:
            _serve(client, repository, journal, config)
            raise
        return journal.move(rollout, "baked", reason)


def promote_version(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    settings: ServingSettings,
    model: str,
    version: int,
    reason: str,
) -> Rollout:
    """Let a version that is on the disk serve, by a rollout of its own; a champion in its bake is accepted.

    It is staged in a scratch Triton first, where it must give its golden answers. It is served with the instances and
    batching that it was last served with.

    Raises:
        ServingError: There is no such version, nothing is known of its answers, or it does not give them.
    """
    config = repository.served(model)
    _check_on_disk(repository, model, version)
    serving = journal.serving(model, version)
    if version == max(config.versions):
        if serving is not None and serving.state == "promoted":
            return finish_bake(client, repository, journal, model, reason)
        raise ServingError("This version serves already.", where=f"{model} version {version}")
    golden = journal.golden(model, version)
    if golden is None:
        raise ServingError(
            "No golden queries were kept of this version, so nobody can tell whether it still answers rightly.",
            where=f"{model} version {version}",
            fix="Deploy its artifact again: `leanloop run`.",
        )
    package = repository.package(model, version, golden)
    choice = _last_choice(journal, model, version, config.choice)
    with journal.begin(model, package.artifact_id) as rollout:
        threads = int(repository.runtime(model, version)["threads"])
        with stage(settings, config.spec, [package], threads):
            rollout = journal.move(rollout, "validated", reason, golden_queries=len(golden))
        promoted = _last_promotion(journal, model, version)
        parent = version if promoted is None or promoted.parent is None else promoted.parent
        return promote_again(client, repository, journal, rollout, (parent, version), choice).rollout


def recover(client: TritonClient, repository: ModelRepository, journal: Journal) -> tuple[Mended, ...]:
    """Finish or undo what a crash interrupted; call it whenever a server or a service starts.

    A promotion whose ``config.pbtxt`` was written is finished when its golden answers come, else undone. A roll-back is
    finished. What was only staged is discarded. A rollout that another process is at is left alone. Doing it twice is
    fine; what could not be mended stays as it is, and the result says why.
    """
    mended: list[Mended] = []
    for model in journal.models():
        with journal.alone(model) as is_alone, repository.locked():
            if is_alone:
                for rollout in journal.history(model):
                    discarded = journal.discard_staged(rollout, "the process that staged it ended")
                    if discarded is not None:
                        mended.append(Mended(discarded, "discarded"))
                    elif rollout.state in INTERRUPTED:
                        mended.append(_mend(client, repository, journal, rollout))
    return tuple(mended)


def enforce_deadlines(
    client: TritonClient, repository: ModelRepository, journal: Journal, now: datetime | None = None
) -> tuple[Rollout, ...]:
    """End rollouts that no verdict came for in time: inconclusive ones are discarded, promoted ones rolled back.

    What a person promoted waits for its traffic as long as it takes: only what an incident led to is rolled back.

    Args:
        client: Of the server that reads the repository.
        repository: Where it reads.
        journal: Of its rollouts.
        now: The time that counts; None is the present.

    Raises:
        ServingError: A roll-back failed; see `roll_back`.
    """
    now = now or datetime.now(UTC)
    ended = []
    for model in journal.models():
        for rollout in journal.history(model):
            if rollout.deadline is None or rollout.deadline > now:
                continue
            if rollout.state == "inconclusive":
                ended.append(journal.move(rollout, "discarded", "no verdict until its deadline"))
            elif rollout.state == "promoted" and rollout.incident is not None:
                ended.append(roll_back(client, repository, journal, model, "no verdict until its deadline"))
    return tuple(ended)


def _way_back(
    repository: ModelRepository, journal: Journal, rollout: Rollout, config: ModelConfig, to: int | None
) -> ModelConfig:
    model, champion = rollout.model, max(config.versions)
    target = to if to is not None else (rollout.previous or FLOOR)
    _check_on_disk(repository, model, target)
    if rollout.before is not None and target == rollout.previous:
        choice = rollout.before.choice
    else:
        choice = _last_choice(journal, model, target, config.choice)
    back = config.model_copy(
        update={
            "versions": tuple(sorted({FLOOR, target} | {one for one in config.versions if one <= target})),
            "choice": choice,
        }
    )
    if back == config:
        raise ServingError(
            "There is nothing to go back to: this version serves already.",
            where=f"{model} version {champion}",
            fix="`leanloop history` shows what else there is.",
        )
    return back


def _at_once(back: ModelConfig, served: ModelConfig) -> ModelConfig:
    """What switches in milliseconds: with the instances and batching of the moment Triton loads nothing anew."""
    return back.model_copy(update={"choice": served.choice})


def _end_roll_back(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    rollout: Rollout,
    at_once: ModelConfig,
    started: float,
) -> Rollout:
    milliseconds = (time.perf_counter() - started) * 1e3
    back, reason = rollout.back, rollout.reason
    assert back is not None, "a roll-back names what shall serve"
    if back != at_once:
        try:
            _serve(client, repository, journal, back)
        except ServingError as error:
            _serve(client, repository, journal, at_once)
            reason = f"{reason}; its own instances and batching could not be set: {error.what}"
    return journal.move(rollout, "rolled_back", reason, rollback_ms=milliseconds)


def _stay(
    client: TritonClient,
    repository: ModelRepository,
    journal: Journal,
    rollout: Rollout,
    config: ModelConfig,
    former: State,
    error: BaseException,
) -> None:
    _serve(client, repository, journal, config)
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    journal.move(rollout, former, f"not rolled back: {first_line}")


def _mend(client: TritonClient, repository: ModelRepository, journal: Journal, rollout: Rollout) -> Mended:
    try:
        if rollout.state == "rolling_back":
            assert rollout.back is not None, "a roll-back names what shall serve"
            started = time.perf_counter()
            # The crash came before or after the switch was written.
            at_once = _at_once(rollout.back, repository.served(rollout.model))
            _serve(client, repository, journal, at_once)
            done = _end_roll_back(client, repository, journal, rollout, at_once, started)
            return Mended(done, "finished the roll-back")
        if repository.config(rollout.model) == rollout.after:
            done = finish_promotion(client, repository, journal, rollout, "finished after a crash")
            return Mended(done, "finished the promotion")
        done = undo_promotion(client, repository, journal, rollout, "a crash came before the switch")
        return Mended(done, "undid the promotion")
    except ServingError as error:
        now = next(one for one in journal.history(rollout.model) if one.number == rollout.number)
        return Mended(now, f"failed: {error}")


def _serve(client: TritonClient, repository: ModelRepository, journal: Journal, config: ModelConfig) -> None:
    config.save(repository.folder(config.spec.name))
    _load(client, journal, config)


def _load(client: TritonClient, journal: Journal, config: ModelConfig) -> None:
    client.load(config.spec.name)
    verify_champion(client, journal, config.spec.name, max(config.versions))


def _last_promotion(journal: Journal, model: str, version: int) -> Rollout | None:
    for rollout in reversed(journal.history(model)):
        if rollout.version == version and any(one.state in ("promoted", "baked") for one in rollout.transitions):
            return rollout
    return None


def _last_choice(journal: Journal, model: str, version: int, otherwise: ServingChoice) -> ServingChoice:
    promoted = _last_promotion(journal, model, version)
    return otherwise if promoted is None or promoted.after is None else promoted.after.choice


def _check_on_disk(repository: ModelRepository, model: str, version: int) -> None:
    versions = repository.versions(model)
    if version not in versions:
        raise ServingError(
            "There is no such version.",
            where=f"{model} version {version}",
            value=version,
            fix=f"On the disk are {', '.join(map(str, versions)) or 'none'}.",
        )
