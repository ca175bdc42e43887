"""A recipe: what is done to the original, in order, for one target; and the ids that results are kept under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from leanloop.bundle import Bundle
from leanloop.core.contracts import RecipeRecord
from leanloop.core.errors import SettingsError
from leanloop.core.files import digest_json
from leanloop.core.hardware import instruction_sets, tool_versions
from leanloop.core.names import code_version
from leanloop.core.settings import TargetName
from leanloop.optimize.techniques import TECHNIQUES, Config, GraphTechnique, TorchTechnique, read_config


@dataclass(frozen=True)
class Recipe:
    """Techniques in order: any number that change the PyTorch module, then at most one that makes the target's files.

    Attributes:
        target: Where the result runs.
        configs: In order.
    """

    target: TargetName
    configs: tuple[Config, ...] = ()

    def __post_init__(self) -> None:
        kinds = [TECHNIQUES[config.technique] for config in self.configs]
        graph = [kind for kind in kinds if isinstance(kind, GraphTechnique)]
        if graph and (len(graph) > 1 or kinds[-1] is not graph[0]):
            raise SettingsError(
                "A recipe ends with at most one technique that makes a target's files.",
                value=[config.technique for config in self.configs],
            )
        if graph and graph[0].target != self.target:
            raise SettingsError(
                f"Technique {graph[0].name!r} makes files for another target.",
                value=self.target,
                fix=f"Its target is {graph[0].target}.",
            )

    @property
    def torch(self) -> tuple[Config, ...]:
        """Configs that change the PyTorch module."""
        return tuple(config for config in self.configs if isinstance(TECHNIQUES[config.technique], TorchTechnique))

    @property
    def graph(self) -> Config | None:
        """The config that makes the target's files; None for the plain fp32 conversion."""
        return next((c for c in self.configs if isinstance(TECHNIQUES[c.technique], GraphTechnique)), None)

    @property
    def trains(self) -> bool:
        """Whether it pays for fine-tuning."""
        return any(TECHNIQUES[config.technique].trains for config in self.configs)

    def untrained(self) -> Recipe:
        """The same shapes and kernels without the fine-tuning: as fast and as large, and quick to make."""
        kept = [config for config in self.configs if not TECHNIQUES[config.technique].trains]
        return replace(self, configs=tuple(_drafted(config) for config in kept))

    def shortened(self, bundle: Bundle) -> Recipe:
        """The same with much shorter fine-tuning."""
        return replace(self, configs=tuple(_shortened(config, bundle) for config in self.configs))

    def scaled(self, times: float) -> Recipe | None:
        """The same with fine-tuning so many times as long; None when it cannot be that short."""
        configs = [scaled(config, times) for config in self.configs]
        kept = tuple(config for config in configs if config is not None)
        return replace(self, configs=kept) if len(kept) == len(configs) else None

    def record(self) -> RecipeRecord:
        """As data."""
        return RecipeRecord(target=self.target, techniques=tuple(config.document() for config in self.configs))

    @classmethod
    def from_record(cls, record: RecipeRecord) -> Recipe:
        """From data.

        Raises:
            SettingsError: A technique, field or value is wrong.
        """
        return cls(record.target, tuple(read_config(document) for document in record.techniques))


def scaled(config: Config, times: float) -> Config | None:
    """A config that trains so many times as long; itself when it does not train; None when it cannot be that short."""
    technique = TECHNIQUES[config.technique]
    return technique.scale(config, times) if isinstance(technique, TorchTechnique) and technique.scale else config


def _drafted(config: Config) -> Config:
    technique = TECHNIQUES[config.technique]
    return technique.draft(config) if isinstance(technique, GraphTechnique) else config


def _shortened(config: Config, bundle: Bundle) -> Config:
    technique = TECHNIQUES[config.technique]
    if not isinstance(technique, TorchTechnique) or technique.shorten is None:
        return config
    return technique.shorten(config, bundle)


def recipe_id(recipe: Recipe, bundle_digest: str) -> str:
    """SHA-256 over all that decides a result: recipe, model and data, our code, the tools, the instruction set."""
    return _id(bundle_digest, recipe.record().model_dump(mode="json"))


def prefix_id(configs: Sequence[Config], bundle_digest: str) -> str:
    """The same for the PyTorch techniques alone: recipes that share them share the work, whatever comes after."""
    return _id(bundle_digest, [config.document() for config in configs])


def _id(bundle_digest: str, what: Any) -> str:
    return digest_json(
        {
            "what": what,
            "bundle": bundle_digest,
            "code_version": code_version(),
            "tools": tool_versions(),
            "isa": sorted(instruction_sets()),
        }
    )
