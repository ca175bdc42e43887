"""What the search may try: ladders of shapes from mild to strong, times the ways to make each target's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from leanloop.bundle import Bundle
from leanloop.convert import TARGETS
from leanloop.core.contracts import Analysis
from leanloop.core.files import digest_json
from leanloop.core.hardware import hardware_id, tool_versions
from leanloop.core.names import code_version
from leanloop.core.settings import Settings, TargetName
from leanloop.optimize.candidate import reason_of
from leanloop.optimize.recipe import Recipe, scaled
from leanloop.optimize.techniques import TECHNIQUES, Config, Findings, GraphTechnique, Technique, TorchTechnique

PROBE = 0
"""An effort of nothing: the shape is timed untrained, and not trained."""

OWN_SHAPE = "its own shape"
"""Ladder of one rung, where nothing reshapes and something trains."""

EFFORTS = (1, 2)
"""How many times the usual fine-tuning a shape is given: more once it is known which shapes fail narrowly."""


@dataclass(frozen=True)
class Finish:
    """One way to make a target's files.

    Attributes:
        target: Where they run.
        configs: Of one technique, best first; None stands for the plain fp32 conversion.
    """

    target: TargetName
    configs: tuple[Config | None, ...]


@dataclass(frozen=True)
class Space:
    """The search space.

    Attributes:
        shapes: Ladders by name, the most promising first; each rung is the techniques that reshape, from mild to
            strong.
        training: What follows a reshaping technique.
        finishes: Ways to make files, of all targets.
        left_out: Technique or target -> why it is not tried.
        training_anew: What follows instead where the network has fresh weights; empty where it is the same.
        mending: What trains on where files that compute on integers lose too much.
    """

    shapes: Mapping[str, tuple[tuple[Config, ...], ...]]
    training: tuple[Config, ...]
    finishes: tuple[Finish, ...]
    left_out: Mapping[str, str]
    training_anew: tuple[Config, ...] = ()
    mending: tuple[Config, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether more effort means anything."""
        return bool(self.training) or any(_trains(rung) for ladder in self.shapes.values() for rung in ladder)

    def is_fresh(self, shape: str) -> bool:
        """Whether the networks of a ladder have fresh weights."""
        return any(_is_fresh(rung) for rung in self.shapes.get(shape, ()))

    def torch(self, shape: str, strength: int, effort: int) -> tuple[Config, ...]:
        """The PyTorch techniques of one point: none at strength 0, else the rung's configs and the training.

        Where the rung trains itself, no other training follows.
        """
        if strength == 0:
            return ()
        times, rung = max(effort, EFFORTS[0]), self.shapes[shape][strength - 1]
        training = self.training_anew if self.training_anew and _is_fresh(rung) else self.training
        return tuple(scaled(config, times) or config for config in (rung if _trains(rung) else rung + training))

    def recipes(self, torch: tuple[Config, ...], finish: Finish) -> tuple[Recipe, ...]:
        """The recipes of one finish after some PyTorch techniques, best first; the mended ones last."""
        plain = tuple(Recipe(finish.target, torch if config is None else (*torch, config)) for config in finish.configs)
        first = finish.configs[0]
        if first is None or not _is_integer(first):
            return plain
        return (*plain, *(Recipe(finish.target, (*torch, config, first)) for config in self.mending))

    def digest(self, settings: Settings) -> str:
        """Of all that makes results comparable: this space, the goal, the machine, the tools. One study each."""
        return digest_json(
            {
                "shapes": {
                    name: [[config.document() for config in rung] for rung in ladder]
                    for name, ladder in self.shapes.items()
                },
                "training": [config.document() for config in self.training],
                "mending": [config.document() for config in self.mending],
                "training_anew": [config.document() for config in self.training_anew],
                "finishes": [
                    [finish.target, [None if config is None else config.document() for config in finish.configs]]
                    for finish in self.finishes
                ],
                "goal": settings.goal.model_dump(mode="json"),
                "seed": settings.optimize.seed,
                "limits": [settings.optimize.trial_timeout_seconds, settings.optimize.trial_memory_bytes],
                "hardware": hardware_id(),
                "tools": tool_versions(),
                "code_version": code_version(),
            }
        )


def make_space(bundle: Bundle, settings: Settings, analysis: Analysis | None = None) -> Space:
    """The space of a bundle under its settings; what cannot work with the bundle is left out, with the reason.

    Args:
        bundle: The owner's.
        settings: Goal, targets, techniques, budget.
        analysis: Of the same bundle; without it there are no ladders of what it found.

    Raises:
        SettingsError: A technique of the settings is not registered.
    """
    budget, left_out = settings.optimize.budget_minutes, {}
    findings = Findings(settings.goal, analysis)
    targets: list[TargetName] = []
    for target in settings.targets:
        if reason := TARGETS[target].can_convert() or TARGETS[target].can_run():
            left_out[f"target {target}"] = reason
        else:
            targets.append(target)
    shaping: dict[str, Sequence[Config]] = {}
    training: list[Config] = []
    mending: list[Config] = []
    finishes = [Finish(target, (None,)) for target in targets]
    for name in settings.optimize.techniques:
        technique = TECHNIQUES[name]
        reason, configs = _choices(technique, bundle, targets, budget, findings)
        if reason:
            left_out[name] = reason
        elif isinstance(technique, GraphTechnique):
            finishes.append(Finish(technique.target, tuple(configs)))
        elif not technique.trains:
            shaping[name] = configs
        elif technique.own_ladder:
            shaping[name] = [_seeded(config, settings.optimize.seed) for config in configs]
        else:
            (mending if technique.mends else training).append(_seeded(configs[0], settings.optimize.seed))
    if not training:
        # Where nothing else trains, it does.
        training, mending = mending, []
    ladders = make_ladders(shaping, bundle, budget, findings, left_out)
    if training and not ladders:
        ladders[OWN_SHAPE] = ((),)
    fresh = any(_is_fresh(rung) for ladder in ladders.values() for rung in ladder)
    anew = tuple(_anew(config, bundle) for config in training) if fresh else ()
    return Space(ladders, tuple(training), tuple(finishes), left_out, anew, tuple(mending))


def make_ladders(
    choices: Mapping[str, Sequence[Config]],
    bundle: Bundle,
    budget_minutes: float,
    findings: Findings,
    left_out: dict[str, str],
) -> dict[str, tuple[tuple[Config, ...], ...]]:
    """All ladders of what shapes a network, in the order in which they are tried.

    Each technique's own; then its further ones, and those of one technique after another; then those that depend on
    what was found before.

    Args:
        choices: By technique.
        bundle: The owner's.
        budget_minutes: Of the search.
        findings: Goal and analysis.
        left_out: Gets the reason where a technique's further ladders cannot be made.
    """
    ladders: dict[str, tuple[tuple[Config, ...], ...]] = {}
    further: dict[str, tuple[tuple[Config, ...], ...]] = {}
    informed: dict[str, tuple[tuple[Config, ...], ...]] = {}
    for name, configs in choices.items():
        technique = TECHNIQUES[name]
        assert isinstance(technique, TorchTechnique)
        after = [other for other in technique.before if other in choices]
        if not after:
            ladders[name] = tuple((config,) for config in configs)
        for other in after:
            rungs = [(config,) for config in choices[other]]
            for count, config in enumerate(configs, start=1):
                further[f"{name} {count}, {other}"] = ((config,), *((config, *rung) for rung in rungs))
        if technique.further:
            offer = partial(technique.further, bundle, budget_minutes)
            further |= _offered(name, offer, f"{name}, further shapes", left_out)
        if technique.informed:
            offer = partial(technique.informed, bundle, budget_minutes, findings)
            informed |= _offered(name, offer, f"{name}, shapes by analysis", left_out)
    return ladders | further | informed


def _offered(
    name: str, offer: Callable[[], Mapping[str, Sequence[Config]]], what: str, left_out: dict[str, str]
) -> dict[str, tuple[tuple[Config, ...], ...]]:
    """A technique's ladders of one kind; none, and the reason, where they cannot be made."""
    try:
        return {f"{name}, {ladder}": tuple((config,) for config in some) for ladder, some in offer().items()}
    except Exception as error:  # noqa: BLE001 - whatever an owner's model makes it raise: the others go on
        left_out[what] = reason_of(error)
        return {}


def _choices(
    technique: Technique, bundle: Bundle, targets: list[TargetName], budget_minutes: float, findings: Findings
) -> tuple[str, Sequence[Config]]:
    """What a technique offers; or why it is left out."""
    try:
        reason = technique.why_not(bundle) or _without_target(technique, targets)
        if reason:
            return reason, ()
        if isinstance(technique, GraphTechnique) and technique.informed:
            configs = technique.informed(bundle, budget_minutes, findings)
        else:
            configs = technique.choices(bundle, budget_minutes)
    except Exception as error:  # noqa: BLE001 - whatever an owner's model makes it raise: the others go on
        return f"it cannot work with this model: {reason_of(error)}", ()
    return "" if configs else "it has nothing to try here", configs


def _is_integer(config: Config) -> bool:
    technique = TECHNIQUES[config.technique]
    return isinstance(technique, GraphTechnique) and technique.integer


def _is_fresh(rung: tuple[Config, ...]) -> bool:
    techniques = [TECHNIQUES[config.technique] for config in rung]
    return any(isinstance(technique, TorchTechnique) and technique.fresh for technique in techniques)


def _anew(config: Config, bundle: Bundle) -> Config:
    technique = TECHNIQUES[config.technique]
    assert isinstance(technique, TorchTechnique)
    return config if technique.anew is None else technique.anew(config, bundle)


def _trains(rung: tuple[Config, ...]) -> bool:
    return any(TECHNIQUES[config.technique].trains for config in rung)


def _without_target(technique: Technique, targets: list[TargetName]) -> str | None:
    if isinstance(technique, GraphTechnique) and technique.target not in targets:
        return f"its target, {technique.target}, is not among the targets"
    return None


def _seeded(config: Config, seed: int) -> Config:
    with_seed: dict[str, Any] = {"seed": seed} if any(field.name == "seed" for field in fields(config)) else {}
    return replace(config, **with_seed)
