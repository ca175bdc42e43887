"""What serves, read from the model repository and the store."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from leanloop.core.contracts import Release
from leanloop.core.releases import ORIGINAL, baseline_key, release_of
from leanloop.core.store import Store
from leanloop.monitoring.judge import Baseline
from leanloop.serving import Journal, ModelConfig, ModelRepository, Rollout


@dataclass(frozen=True)
class Served:
    """One model as it serves.

    Attributes:
        config: Tensors, loaded versions, instances and batching.
        artifact_id: That the champion holds.
        parent: Loaded version that holds the original of the champion; None when it is not loaded, or is
            the champion itself.
        release: By which the champion came; None when the store knows none.
        rollout: By which it serves; None when the journal knows none.
        again: Whether the same version was released before.
    """

    config: ModelConfig
    artifact_id: str
    parent: int | None
    release: Release | None
    rollout: Rollout | None
    again: bool

    @property
    def model(self) -> str:
        """Its name."""
        return self.config.spec.name

    @property
    def version(self) -> int:
        """The champion: it answers requests that name no version."""
        return max(self.config.versions)

    @property
    def since(self) -> float:
        """Unix time from which on its answers count: of its promotion, and 0 when the journal knows none."""
        steps = () if self.rollout is None else self.rollout.transitions
        return next((step.at.timestamp() for step in steps if step.state in ("promoted", "baked")), 0.0)

    @property
    def key(self) -> tuple[str, int, str, float, str]:
        """Changes when something else serves, the same was released again, or its release has come to be known."""
        created = "" if self.release is None else self.release.created
        return self.model, self.version, self.artifact_id, self.since, created

    @property
    def capacity(self) -> float:
        """Samples per second that the release was measured at, over all loads; 0 when it never was."""
        rows = self.release.served if self.release is not None else ()
        return max((row.throughput for row in rows if row.version == self.version), default=0.0)


def read_served(repository: ModelRepository, journal: Journal, store: Store, model: str) -> Served | None:
    """What serves under a name; None when nothing does."""
    config = repository.config(model)
    if config is None:
        return None
    artifacts = {version: str(repository.runtime(model, version)["artifact_id"]) for version in config.versions}
    champion = max(config.versions)
    originals = [version for version, artifact in artifacts.items() if artifact == ORIGINAL and version != champion]
    return Served(
        config=config,
        artifact_id=artifacts[champion],
        parent=max(originals, default=None),
        release=release_of(store, model, champion),
        rollout=journal.serving(model, champion),
        again=sum(one.version == champion for one in journal.history(model)) > 1,
    )


@dataclass(frozen=True)
class KeptBaseline:
    """What a champion's windows are compared with, and the key that the store keeps it under: it never changes."""

    key: str
    baseline: Baseline


def read_baseline(store: Store, served: Served) -> KeptBaseline | None:
    """The newest baseline of the champion, of those since its release; None when none was kept.

    What an earlier life of the same version came to take for normal counts no more.

    Raises:
        StoreError: It is damaged.
    """
    if served.release is None:
        return None
    first = baseline_key(served.release.bundle_digest, served.artifact_id)
    newest = store.get_json(f"{first}.json")
    key = first if newest is None else str(newest["key"])
    if key != first and int(key.removeprefix(f"{first}-")) < int(served.since):
        key = first
    with tempfile.TemporaryDirectory(prefix="leanloop-baseline-") as name:
        folder = Path(name) / "baseline"
        return KeptBaseline(key, Baseline.load(folder)) if store.get_folder(key, folder) else None


def renew_baseline(store: Store, served: Served, baseline: Baseline, now: float) -> KeptBaseline:
    """Keep a later baseline of the champion beside the earlier ones; it is the one that counts from now on.

    Args:
        store: Of the workspace.
        served: Its release is known.
        baseline: From live windows that were accepted.
        now: Unix time.
    """
    assert served.release is not None, "a baseline is renewed where one was kept"
    first = baseline_key(served.release.bundle_digest, served.artifact_id)
    key = f"{first}-{int(now)}"
    with tempfile.TemporaryDirectory(prefix="leanloop-baseline-") as name:
        baseline.save(Path(name))
        store.put_folder(key, Path(name))
    store.put_json(f"{first}.json", {"schema_version": 1, "key": key})
    return KeptBaseline(key, baseline)
