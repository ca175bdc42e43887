"""The original model's own answers: what "as right as before" is measured against."""

from __future__ import annotations

from leanloop.bundle import Arrays, Bundle, Split
from leanloop.core.contracts import ModelFiles
from leanloop.runtime.session import open_session, predict


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
    session = open_session(files, bundle.folder, threads=1)
    try:
        return predict(session, split, outputs=manifest.outputs)
    finally:
        session.close()
