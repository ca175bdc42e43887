"""The model repository: one folder per model, one numbered folder per version.

    <model>/config.pbtxt
    <model>/<version>/model.py, capture_format.py, runtime.json, and the files that the runtime loads

A version's folder is whole or absent and never changes; a number is never used twice.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanloop.core.contracts import CallPlan, ModelFiles
from leanloop.core.errors import ServingError
from leanloop.core.files import atomic_folder, digest_file, digest_folder, folder_bytes, inside, read_json, write_json
from leanloop.core.names import check_name
from leanloop.serving.golden import Golden
from leanloop.serving.model_config import FILE_NAME, ModelConfig, ModelSpec

_PROGRAMS = {
    "model.py": Path(__file__).with_name("model_template.py"),
    "capture_format.py": Path(__file__).with_name("capture_format.py"),
}
_RUNTIME_FILE = "runtime.json"
_NO_BYTE_CODE = "__pycache__"
"""A file in the place of that folder keeps the model process from writing byte code into a version: Triton would take
the changed folder for a changed version and reload it whenever another version is loaded."""


@dataclass(frozen=True)
class Package:
    """One artifact as it goes into Triton.

    Attributes:
        artifact_id: Which artifact it is.
        files: What the runtime loads.
        folder: Where those files are.
        golden: Queries with the answers that this artifact must give.
        batch_sizes: Compiled for exactly these where the runtime gains by it (OpenVINO), beside any other size.
    """

    artifact_id: str
    files: ModelFiles
    folder: Path
    golden: Golden
    batch_sizes: tuple[int, ...] = (1,)


class ModelRepository:
    """A Triton model repository on this host.

    Args:
        root: Its folder; made when it is not there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository alone: one deployment at a time."""
        with (self.root / ".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def folder(self, model: str) -> Path:
        """The folder of a model, which need not exist."""
        return inside(self.root, check_name(model))

    def models(self) -> tuple[str, ...]:
        """Models that have a configuration, by name."""
        return tuple(sorted(path.parent.name for path in self.root.glob(f"*/{FILE_NAME}")))

    def versions(self, model: str) -> tuple[int, ...]:
        """All versions on disk, oldest first, loaded or not."""
        folder = self.folder(model)
        if not folder.is_dir():
            return ()
        return tuple(sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()))

    def config(self, model: str) -> ModelConfig | None:
        """What the model is served with, or None when it never was."""
        folder = self.folder(model)
        return ModelConfig.load(folder) if (folder / FILE_NAME).exists() else None

    def served(self, model: str) -> ModelConfig:
        """What the model is served with.

        Raises:
            ServingError: It is not served.
        """
        config = self.config(model)
        if config is None:
            raise ServingError(
                "No such model is served.",
                where=str(self.root),
                value=model,
                fix=f"There are {', '.join(self.models()) or 'none'}; `leanloop run` deploys one.",
            )
        return config

    def capture_into(self, folder: Path) -> dict[str, str]:
        """Let models that capture into another folder capture into this one, from their next load on.

        Configurations name the folder whole, so in a workspace that was moved or copied they name one of the old place.

        Args:
            folder: Where the requests of all models go.

        Returns:
            Where each changed model captured into, by model.
        """
        changed: dict[str, str] = {}
        with self.locked():
            for model in self.models():
                try:
                    config = self.served(model)
                except ServingError:
                    continue  # it cannot be loaded either, and the server keeps the reason
                if config.capture is not None and config.capture.folder != str(folder):
                    changed[model] = config.capture.folder
                    config.capturing_into(folder).save(self.folder(model))
        return changed

    def runtime(self, model: str, version: int) -> dict[str, Any]:
        """The version's ``runtime.json``: artifact, runtime, file, precision, threads, hints and tensors."""
        document: dict[str, Any] = read_json(self.folder(model) / str(version) / _RUNTIME_FILE)
        return document

    def digest(self, model: str, version: int) -> str:
        """SHA-256 over the version's folder."""
        return digest_folder(self.folder(model) / str(version))

    def package(self, model: str, version: int, golden: Golden) -> Package:
        """A version on disk as the package that it was written from, to stage it again.

        Raises:
            StoreError: There is no such version.
        """
        runtime, folder = self.runtime(model, version), self.folder(model) / str(version)
        ours = {*_PROGRAMS, _RUNTIME_FILE, _NO_BYTE_CODE}
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = ModelFiles(
            runtime=runtime["runtime"],
            precision=runtime["precision"],
            main=runtime["main"],
            files=tuple(name for name in names if name not in ours),
            size_bytes=folder_bytes(folder),
            hints=runtime["hints"],
            plans={int(size): CallPlan(**plan) for size, plan in runtime.get("plans", {}).items()},
        )
        return Package(runtime["artifact_id"], files, folder, golden, tuple(runtime["batch_sizes"]))

    def find(self, spec: ModelSpec, package: Package, threads: int) -> int | None:
        """The version that holds exactly this package, or None."""
        versions = self.versions(spec.name)
        return next((version for version in versions if self._holds(spec, version, package, threads)), None)

    def place(self, spec: ModelSpec, package: Package, threads: int) -> int:
        """The version that holds exactly this package, written under the next number when there is none."""
        version = self.find(spec, package, threads)
        if version is None:
            version = max(self.versions(spec.name), default=0) + 1
            self.write_version(spec, version, package, threads)
        return version

    def _holds(self, spec: ModelSpec, version: int, package: Package, threads: int) -> bool:
        folder = self.folder(spec.name) / str(version)
        pairs = [(folder / name, program) for name, program in _PROGRAMS.items()]
        pairs += [(folder / name, package.folder / name) for name in package.files.files]
        return self.runtime(spec.name, version) == _runtime_document(spec, package, threads) and all(
            ours.exists() and digest_file(ours) == digest_file(theirs) for ours, theirs in pairs
        )

    def write_version(self, spec: ModelSpec, version: int, package: Package, threads: int) -> None:
        """Write one version: whole, or not at all.

        Args:
            spec: Name and tensors of the model.
            version: Its number; above all that exist.
            package: The artifact.
            threads: CPU threads per instance.

        Raises:
            ServingError: The number is taken, or the runtime cannot be served.
        """
        newest = max(self.versions(spec.name), default=0)
        if version <= newest:
            raise ServingError(
                "A version number is used once only.",
                where=str(self.folder(spec.name)),
                value=version,
                fix=f"The next one is {newest + 1}.",
            )
        if package.files.runtime not in ("onnxruntime", "openvino"):
            raise ServingError(
                "Triton here serves onnxruntime and openvino models only.",
                where=package.artifact_id,
                value=package.files.runtime,
                fix="Convert the model to ONNX.",
            )
        with atomic_folder(self.folder(spec.name) / str(version)) as folder:
            for name in package.files.files:
                copy = inside(folder, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(inside(package.folder, name), copy)
            for name, program in _PROGRAMS.items():
                shutil.copyfile(program, folder / name)
            (folder / _NO_BYTE_CODE).touch()
            write_json(folder / _RUNTIME_FILE, _runtime_document(spec, package, threads))


def _runtime_document(spec: ModelSpec, package: Package, threads: int) -> dict[str, Any]:
    plans = {str(size): plan.model_dump() for size, plan in package.files.plans.items() if size in package.batch_sizes}
    # Only where there are any, so that what was written before there were plans is still known as the same.
    return ({"plans": plans} if plans else {}) | {
        "artifact_id": package.artifact_id,
        "runtime": package.files.runtime,
        "precision": package.files.precision,
        "main": package.files.main,
        "hints": package.files.hints,
        "threads": threads,
        "batch_sizes": sorted(set(package.batch_sizes)),
        "inputs": [tensor.model_dump(mode="json") for tensor in spec.inputs],
        "outputs": [tensor.model_dump(mode="json") for tensor in spec.outputs],
    }
