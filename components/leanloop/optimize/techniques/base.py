"""What a technique is: a frozen config, a handler, and a row in the `TECHNIQUES` registry.

Adding a technique touches one file::

    @dataclass(frozen=True)
    class HalveConfig(Config):
        technique: ClassVar[str] = "halve"
        times: int = 1

    TECHNIQUES.register("halve")(TorchTechnique("halve", HalveConfig, why_not, choices, reshaping(halve), halve_again))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from leanloop.bundle import Bundle
from leanloop.core.contracts import ModelFiles
from leanloop.core.errors import SettingsError
from leanloop.core.registry import Registry
from leanloop.core.settings import TargetName
from leanloop.core.store import Store
from leanloop.optimize.techniques.findings import Findings


@dataclass(frozen=True)
class Config:
    """One technique with its settings: part of a recipe, and so of its id. Fields are plain JSON values.

    Attributes:
        version: Raised when the same fields come to mean something else; an id then changes, and no old result is
            taken for a new one.
    """

    technique: ClassVar[str]
    version: int = 1

    def document(self) -> dict[str, Any]:
        """As JSON: ``{"technique": name, "version": n, ...its fields}``."""
        return {"technique": self.technique, **dataclasses.asdict(self)}


def check(condition: bool, config: Config, name: str, allowed: str) -> None:
    """Refuse a config whose field ``name`` is not what is ``allowed``.

    Raises:
        SettingsError: With the technique, the field and its value.
    """
    if not condition:
        raise SettingsError(
            f"Wrong value for {name!r} of technique {config.technique!r}.",
            value=getattr(config, name),
            fix=f"It must be {allowed}.",
        )


@dataclass(frozen=True)
class Workshop:
    """What handlers work with.

    Attributes:
        bundle: The owner's model and data.
        store: Keeps what several trials need, such as the original's outputs on the training data.
        threads: CPU threads that this worker may use.
    """

    bundle: Bundle
    store: Store
    threads: int


@dataclass(frozen=True)
class Applied:
    """What came of a PyTorch technique.

    Attributes:
        module: The one that was given, changed in place, or another.
        shapes: JSON from which `RebuildTorch` makes the same of a fresh module; None when shapes stay as they are.
        seconds_per_sample: That a training took once warm: what a longer one is expected to take.
    """

    module: nn.Module
    shapes: Any = None
    seconds_per_sample: float = 0.0


ApplyTorch = Callable[[nn.Module, Any, Workshop], Applied]
"""``(module, config, workshop) -> what came of it``; see `reshaping` and `fine_tuning` for what works in place."""

RebuildTorch = Callable[[nn.Module, Any, Bundle], nn.Module]
"""``(fresh module, shapes, bundle) -> module`` as `ApplyTorch` shaped it; weights are loaded afterwards."""

ApplyGraph = Callable[[Path, Path, Any, Workshop], ModelFiles]
"""``(fp32 ONNX file, folder, config, workshop) -> files`` that a runtime loads, written into the folder."""


@dataclass(frozen=True)
class TorchTechnique:
    """Changes the PyTorch module, before it is exported.

    Attributes:
        name: As in the settings.
        config: Its config class.
        why_not: Why it cannot work with a bundle; None when it can.
        choices: Configs to try, in order: what reshapes goes from mild to strong.
        apply: See `ApplyTorch`.
        rebuild: See `RebuildTorch`; None when shapes stay as they are.
        shorten: A much cheaper config that tells early how well the full one will do; None when it does not train.
        prepare: What all trainings share and the store keeps; done before the clock starts.
        work: How many samples it trains on, all passes together: what its time grows with.
        scale: A config that trains so many times as long (less than 1: shorter); None when not even its least fits.
        further: More ladders of choices, by name, each from mild to strong: tried once it is known what the first one
            bears.
        informed: Likewise, where goal or analysis decide which: tried after all others.
        before: Techniques whose every choice is also tried after each choice of this one.
        continues: It takes what the store keeps of the techniques before it: its configs share their training.
        own_ladder: Its choices, from mild to strong, are shapes of their own that train themselves: no other training
            follows them.
        masks: It makes weights zero that later trainings keep so.
        mends: It trains on from the other trainings, and is worth it only where files lose too much without it.
        fresh: The networks that it gives have fresh weights.
        anew: Of what trains, the config that suits a network with fresh weights; None where it is the same.
    """

    name: str
    config: type[Config]
    why_not: Callable[[Bundle], str | None]
    choices: Callable[[Bundle, float], Sequence[Config]]
    apply: ApplyTorch
    rebuild: RebuildTorch | None = None
    shorten: Callable[[Any, Bundle], Config] | None = None
    prepare: Callable[[Workshop], object] | None = None
    work: Callable[[Any, Bundle], float] | None = None
    scale: Callable[[Any, float], Config | None] | None = None
    further: Callable[[Bundle, float], Mapping[str, Sequence[Config]]] | None = None
    informed: Callable[[Bundle, float, Findings], Mapping[str, Sequence[Config]]] | None = None
    before: Sequence[str] = ()
    continues: bool = False
    own_ladder: bool = False
    masks: bool = False
    mends: bool = False
    fresh: bool = False
    anew: Callable[[Any, Bundle], Config] | None = None

    @property
    def trains(self) -> bool:
        """Whether it needs the training data and time."""
        return self.shorten is not None


@dataclass(frozen=True)
class GraphTechnique:
    """Makes a target's files from the exported fp32 ONNX file.

    Attributes:
        name: As in the settings.
        config: Its config class.
        target: The target whose files it makes.
        why_not: Why it cannot work with a bundle on this machine; None when it can.
        choices: Configs to try, best first; later ones are tried when the first costs too much accuracy.
        apply: See `ApplyGraph`.
        draft: A config that gives files as fast and as large at less cost, with answers nobody reads.
        informed: Gives the configs instead of `choices`, where goal or analysis decide which are best.
        integer: Its files compute on integers.
        lengthy: It makes files many times over, and takes minutes.
    """

    name: str
    config: type[Config]
    target: TargetName
    why_not: Callable[[Bundle], str | None]
    choices: Callable[[Bundle, float], Sequence[Config]]
    apply: ApplyGraph
    draft: Callable[[Any], Config] = lambda config: config
    informed: Callable[[Bundle, float, Findings], Sequence[Config]] | None = None
    integer: bool = True
    lengthy: bool = False
    trains: bool = field(default=False, init=False)


Technique = TorchTechnique | GraphTechnique

TECHNIQUES: Registry[Technique] = Registry("technique")


SHAPES, WEIGHTS = "shapes.json", "weights.safetensors"
"""Files of a module's folder: what `reshape` takes, and its weights afterwards."""


def reshape(module: nn.Module, shapes: Sequence[tuple[str, Any]], bundle: Bundle) -> nn.Module:
    """Give a fresh original the shapes that techniques gave another.

    Args:
        module: Of the bundle.
        shapes: Name and record of each technique that reshaped, in order.
        bundle: The original's.

    Returns:
        The module with these shapes, which may be another one.
    """
    for name, record in shapes:
        technique = TECHNIQUES[name]
        assert isinstance(technique, TorchTechnique)
        assert technique.rebuild is not None
        module = technique.rebuild(module, record, bundle)
    return module


def reshaping(change: Callable[[nn.Module, Any, Workshop], Any]) -> ApplyTorch:
    """What changes shapes in place, and returns them as JSON, as an `ApplyTorch`."""
    return lambda module, config, workshop: Applied(module, shapes=change(module, config, workshop))


def fine_tuning(train: Callable[[nn.Module, Any, Workshop], float]) -> ApplyTorch:
    """What trains in place, and returns the seconds per sample, as an `ApplyTorch`."""
    return lambda module, config, workshop: Applied(module, seconds_per_sample=train(module, config, workshop))


def read_config(document: dict[str, Any]) -> Config:
    """A config from `Config.document`.

    Raises:
        SettingsError: The technique or a field is unknown, or a value is wrong.
    """
    fields = dict(document)
    kind = TECHNIQUES[fields.pop("technique")].config
    known = {item.name for item in dataclasses.fields(kind)}
    if unknown := sorted(fields.keys() - known):
        raise SettingsError(
            f"Technique {kind.technique!r} has no such field.",
            value=", ".join(unknown),
            fix=f"Its fields: {', '.join(sorted(known))}.",
        )
    return kind(**fields)
