"""The original model's own answers: what "as right as before" is measured against."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from leanloop.bundle import Arrays, Bundle, Split
from leanloop.core.contracts import ModelFiles
from leanloop.core.files import digest_json
from leanloop.core.hardware import tool_versions
from leanloop.core.names import code_version
from leanloop.core.store import Store
from leanloop.runtime.session import answers_of


def original_outputs(bundle: Bundle, split: Split) -> Arrays:
    """The original's outputs on a split in its own runtime: PyTorch eager, or ONNX Runtime for an ONNX file."""
    if bundle.has_module:
        return bundle.predict(bundle.module(), split)
    manifest = bundle.manifest
    files = ModelFiles(
        runtime="onnxruntime",
        precision="fp32",
        main=manifest.weights,
        files=(manifest.weights,),
        size_bytes=manifest.weights_bytes,
    )
    return answers_of(files, bundle.folder, split, threads=1, outputs=manifest.outputs)


def kept_original_outputs(bundle: Bundle, split: Split, store: Store) -> Arrays:
    """`original_outputs` on one of the bundle's splits, whole; computed once and kept in the store."""
    key = "originals/" + digest_json([bundle.manifest.digest, split.name, code_version(), tool_versions()])
    with tempfile.TemporaryDirectory(prefix="leanloop-original-") as scratch:
        folder = Path(scratch) / "original"

        def make(empty: Path) -> None:
            np.savez(empty / "outputs.npz", allow_pickle=False, **original_outputs(bundle, split))

        store.take_folder(key, folder, make)
        with np.load(folder / "outputs.npz", allow_pickle=False) as archive:
            return {name: archive[name] for name in bundle.manifest.outputs}
