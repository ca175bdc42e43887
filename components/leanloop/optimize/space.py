"""What the search may try: ladders of shapes from mild to strong, times the ways to make each target's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from leanloop.bundle import Bundle
from leanloop.convert import TARGETS
from leanloop.core.files import digest_json
from leanloop.core.hardware import hardware_id, tool_versions
from leanloop.core.names import code_version
from leanloop.core.settings import Settings, TargetName
from leanloop.optimize.recipe import Recipe, scaled
from leanloop.optimize.techniques import TECHNIQUES, Config, GraphTechnique, Technique, TorchTechnique

PROBE = 0
"""An effort of nothing: the shape is timed untrained, and not trained."""

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
    """

    shapes: Mapping[str, tuple[tuple[Config, ...], ...]]
    training: tuple[Config, ...]
    finishes: tuple[Finish, ...]
    left_out: Mapping[str, str]

    def torch(self, shape: str, strength: int, effort: int) -> tuple[Config, ...]:
        """The PyTorch techniques of one point: none at strength 0, else the rung's configs and the training."""
        if strength == 0:
            return ()
        times = max(effort, EFFORTS[0])
        return (*self.shapes[shape][strength - 1], *(scaled(config, times) or config for config in self.training))

    def recipes(self, torch: tuple[Config, ...], finish: Finish) -> tuple[Recipe, ...]:
        """The recipes of one finish after some PyTorch techniques, best first."""
        return tuple(Recipe(finish.target, torch if config is None else (*torch, config)) for config in finish.configs)

    def digest(self, settings: Settings) -> str:
        """Of all that makes results comparable: this space, the goal, the machine, the tools. One study each."""
        return digest_json(
            {
                "shapes": {
                    name: [[config.document() for config in rung] for rung in ladder]
                    for name, ladder in self.shapes.items()
                },
                "training": [config.document() for config in self.training],
                "finishes": [
                    [finish.target, [None if config is None else config.document() for config in finish.configs]]
                    for finish in self.finishes
                ],
                "goal": settings.goal.model_dump(mode="json"),
                "seed": settings.optimize.seed,
                "hardware": hardware_id(),
                "tools": tool_versions(),
                "code_version": code_version(),
            }
        )


def make_space(bundle: Bundle, settings: Settings) -> Space:
    """The space of a bundle under its settings.

    Raises:
        SettingsError: A technique of the settings is not registered.
    """
    budget, left_out = settings.optimize.budget_minutes, {}
    targets: list[TargetName] = []
    for target in settings.targets:
        if reason := TARGETS[target].can_convert() or TARGETS[target].can_run():
            left_out[f"target {target}"] = reason
        else:
            targets.append(target)
    reshaping: dict[str, TorchTechnique] = {}
    training: list[Config] = []
    finishes = [Finish(target, (None,)) for target in targets]
    for name in settings.optimize.techniques:
        technique = TECHNIQUES[name]
        reason = technique.why_not(bundle) or _without_target(technique, targets)
        if reason:
            left_out[name] = reason
            continue
        if isinstance(technique, TorchTechnique) and not technique.trains:
            reshaping[name] = technique
            continue
        configs = tuple(technique.choices(bundle, budget))
        if isinstance(technique, GraphTechnique):
            finishes.append(Finish(technique.target, configs))
        else:
            training.append(_seeded(configs[0], settings.optimize.seed))
    return Space(make_ladders(reshaping, bundle, budget), tuple(training), tuple(finishes), left_out)


def make_ladders(
    techniques: Mapping[str, TorchTechnique], bundle: Bundle, budget_minutes: float
) -> dict[str, tuple[tuple[Config, ...], ...]]:
    """All ladders of reshaping techniques: each one's own, its further ones, and those of one after another."""
    ladders: dict[str, tuple[tuple[Config, ...], ...]] = {}
    further: dict[str, tuple[tuple[Config, ...], ...]] = {}
    for name, technique in techniques.items():
        choices = technique.choices(bundle, budget_minutes)
        after = [techniques[other] for other in technique.before if other in techniques]
        if not after:
            ladders[name] = tuple((config,) for config in choices)
        for other in after:
            rungs = [(config,) for config in other.choices(bundle, budget_minutes)]
            for count, config in enumerate(choices, start=1):
                further[f"{name} {count}, {other.name}"] = ((config,), *((config, *rung) for rung in rungs))
        if technique.further is not None:
            for what, configs in technique.further(bundle, budget_minutes).items():
                further[f"{name}, {what}"] = tuple((config,) for config in configs)
    return ladders | further


def _without_target(technique: Technique, targets: list[TargetName]) -> str | None:
    if isinstance(technique, GraphTechnique) and technique.target not in targets:
        return f"its target, {technique.target}, is not among the targets"
    return None


def _seeded(config: Config, seed: int) -> Config:
    with_seed: dict[str, Any] = {"seed": seed} if any(field.name == "seed" for field in fields(config)) else {}
    return replace(config, **with_seed)
