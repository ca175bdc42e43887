"""Step 0: pack what the owner brings into one folder that later steps need nothing beside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanloop.bundle.files import refer, size_of
from leanloop.core.child import Child, run_limited
from leanloop.core.contracts import BundleManifest, FileReference, SplitSummary
from leanloop.core.errors import BundleError
from leanloop.core.files import atomic_folder, digest_folder, digest_json
from leanloop.core.settings import Settings

PROBE_SECONDS = 300.0
PROBE_BYTES = 8 << 30


def pack(settings: Settings, project: Path, destination: Path, child: Child | None = None) -> BundleManifest:
    """Pack weights, the owner's code, sample inputs and data references, with digests.

    The model is then loaded and run, and every split is read and checked, in a limited child process that sees only
    the packed folder: what passes here works in every later step.

    Args:
        settings: What the owner wrote.
        project: Folder that the settings' relative paths start from.
        destination: Folder to make.
        child: The process to probe in; one of its own without it.

    Raises:
        BundleError, DataError: Something the owner brought is missing or does not fit; nothing is left behind.
    """
    with atomic_folder(destination) as folder:
        weights = _copy_model(settings, project, folder)
        _copy_code(settings, project, folder)
        references, source = _data_references(settings, project, folder)
        draft = BundleManifest(
            name=settings.model.name,
            kind=settings.model.kind,
            weights=weights,
            factory=settings.model.factory,
            student=settings.model.student,
            student_parameters=settings.model.student_parameters,
            data_source=source,
            metric=settings.metric,
            task=settings.model.task,
            classes=settings.model.classes,
            inputs=settings.model.inputs,
            outputs=settings.model.outputs,
            trust=settings.model.trust,
            files=references,
            max_samples={str(split): limit for split, limit in settings.data.max_samples.items()},
            splits={},
            weights_bytes=(folder / weights).stat().st_size,
            digest="",
        )
        return seal(folder, draft, child, settings.model.external_data)


def seal(
    folder: Path, draft: BundleManifest, child: Child | None = None, external_data: Sequence[str] = ()
) -> BundleManifest:
    """Check a bundle folder that holds all but its manifest, and write that.

    Args:
        folder: With weights, code and data.
        draft: The manifest without splits and digest.
        child: The process to probe in; one of its own without it.
        external_data: Files beside an ``.onnx`` that it may read.

    Raises:
        BundleError, DataError: Model and data do not fit.
    """
    draft.save(folder)
    probed = (child.call if child else run_limited)(
        "leanloop.bundle.probe:probe",
        {"folder": str(folder), "external_data": list(external_data)},
        folder=folder / "probe",
        timeout_seconds=PROBE_SECONDS,
        memory_bytes=PROBE_BYTES,
    )
    shutil.rmtree(folder / "probe")
    for compiled in [*(folder / "code").rglob("__pycache__")]:
        shutil.rmtree(compiled)  # holds times, which would make every digest another one
    splits = {name: SplitSummary.model_validate(summary) for name, summary in probed.items()}
    manifest = draft.model_copy(update={"splits": splits})
    manifest = manifest.model_copy(update={"digest": _digest(manifest, folder)})
    manifest.save(folder)
    return manifest


def _digest(manifest: BundleManifest, folder: Path) -> str:
    # A bundle that is no revision, or has no student, keeps the digest that it had before there were such.
    left_out = {"digest", "files"}
    left_out |= set() if manifest.parent else {"parent", "fresh", "likeness"}
    left_out |= set() if manifest.student else {"student", "student_parameters"}
    document: dict[str, Any] = json.loads(manifest.model_dump_json(exclude=left_out))
    # Where data lie does not matter, what they hold does.
    document["files"] = sorted((reference.name, reference.sha256) for reference in manifest.files)
    (folder / BundleManifest.filename).unlink()
    document["contents"] = digest_folder(folder)
    return digest_json(document)


def _copy_model(settings: Settings, project: Path, folder: Path) -> str:
    source = project / settings.model.file
    if not source.is_file():
        raise BundleError(
            "The model file is not there.", where="model.file", value=settings.model.file, fix="Correct the path."
        )
    shutil.copyfile(source, folder / source.name)
    for name in settings.model.external_data:
        beside = source.parent / name
        if not beside.resolve().is_relative_to(source.parent.resolve()) or not beside.is_file():
            raise BundleError(
                "External data of the .onnx file must be a file beside it.", where="model.external_data", value=name
            )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(beside, folder / name)
    return source.name


def _copy_code(settings: Settings, project: Path, folder: Path) -> None:
    code = folder / "code"
    code.mkdir()
    for entry in settings.model.code:
        source = project / entry
        if (code / source.name).exists():
            raise BundleError("Two entries of the code have one name.", where="model.code", value=source.name)
        if source.is_dir():
            shutil.copytree(source, code / source.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.is_file():
            shutil.copyfile(source, code / source.name)
        else:
            raise BundleError("A file of the owner's code is not there.", where="model.code", value=entry)


def _data_references(settings: Settings, project: Path, folder: Path) -> tuple[tuple[FileReference, ...], str]:
    source = settings.data.source
    urls = list(settings.data.files)
    if not _is_object_path(source):
        urls.insert(0, source)
        source = source.rstrip("/").rsplit("/", 1)[-1]
    inline = sum(size_of(url, project) for url in urls) <= settings.data.inline_bytes
    references = tuple(refer(url, project, inline=inline) for url in urls)
    names = [reference.name for reference in references]
    if len(set(names)) != len(names):
        raise BundleError("Two data files have one name.", where="data.files", value=names)
    data = folder / "data"
    data.mkdir()
    if inline:
        for reference in references:
            _fetch(reference, data / reference.name)
    return references, source


def _fetch(reference: FileReference, target: Path) -> None:
    import fsspec

    with fsspec.open(reference.url, "rb") as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _is_object_path(source: str) -> bool:
    return not source.endswith((".npz", ".parquet"))
