"""Where things lie in the workspace folder, and settings whose paths no longer depend on the current folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leanloop.core.settings import Settings
from leanloop.core.store import Store


def with_absolute_paths(settings: Settings, project: Path) -> Settings:
    """The same settings with workspace, store, study and repository filled in and made absolute.

    Steps run in other folders and containers, so nothing relative may reach them.

    Args:
        settings: As read from params.yaml.
        project: The folder of params.yaml.
    """
    workspace = (project / settings.workspace).resolve()
    store = settings.store.url or str(workspace / "store")
    repository = settings.serving.repository or str(workspace / "serving" / "models")
    home = settings.serving.triton_home
    return settings.model_copy(
        update={
            "workspace": str(workspace),
            "store": settings.store.model_copy(update={"url": _absolute(store, project)}),
            "serving": settings.serving.model_copy(
                update={
                    "repository": _absolute(repository, project),
                    "triton_home": _absolute(home, project) if home else "",
                }
            ),
        }
    )


def _absolute(url: str, project: Path) -> str:
    return url if "://" in url else str((project / url).resolve())


@dataclass(frozen=True)
class Workspace:
    """The workspace's rooms. ``settings`` must have absolute paths."""

    settings: Settings

    @property
    def root(self) -> Path:
        """The workspace folder."""
        return Path(self.settings.workspace)

    @property
    def runs(self) -> Path:
        """One folder per run: events, log, pipeline files and results."""
        return self.root / "runs"

    @property
    def serving(self) -> Path:
        """The local Triton's state, log and model repository."""
        return self.root / "serving"

    @property
    def capture(self) -> Path:
        """Segments of captured requests, of all models."""
        return self.serving / "capture"

    @property
    def monitoring(self) -> Path:
        """Captured rows, the database, the states of Prometheus and Alertmanager, and what the supervisor keeps."""
        return self.root / "monitoring"

    @property
    def rows(self) -> Path:
        """Captured requests as Parquet, of all models."""
        return self.monitoring / "rows"

    @property
    def database_url(self) -> str:
        """Where labels, windows, incidents and runs are kept."""
        return self.settings.monitoring.database or f"sqlite:///{self.monitoring / 'loop.db'}"

    @property
    def store(self) -> Store:
        """Results kept between runs."""
        return Store(self.settings.store.url)
