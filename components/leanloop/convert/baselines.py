"""The original in fp32, in each runtime: what every variant is compared with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from leanloop.bundle import Bundle
from leanloop.convert.export import fp32_onnx
from leanloop.convert.onnxruntime import onnx_model_files
from leanloop.convert.parity import check_parity
from leanloop.convert.targets import TARGETS
from leanloop.core.contracts import Artifact, ModelFiles
from leanloop.core.errors import ConversionError
from leanloop.core.events import progress
from leanloop.core.store import Store


def baselines(
    bundle: Bundle, folder: Path, targets: Sequence[str], *, threads: int = 1, store: Store | None = None
) -> list[Artifact]:
    """Write ``folder/original-<runtime>-fp32/`` for PyTorch eager, ONNX Runtime and the targets that can run here.

    OpenVINO is forced to f32. ONNX Runtime is always among them: its file is the first release. An original that is
    an ONNX file has no PyTorch baseline. The store keeps the export.

    Raises:
        ConversionError: The original cannot be exported, or a baseline does not answer as it does.
    """
    progress(0, 3, "exporting the original")
    onnx = folder / "original-onnxruntime-fp32" / "model.onnx"
    fp32_onnx(bundle, onnx, store)
    progress(1, 3, "converting the original")
    models = [_pytorch_files(bundle, folder / "original-pytorch-fp32")] if bundle.has_module else []
    models.append(onnx_model_files(onnx, "fp32"))
    for name in targets:
        target = TARGETS[name]
        if name != "onnxruntime" and target.can_convert() is None and target.can_run() is None:
            models.append(target.convert(onnx, folder / f"original-{name}-fp32", "fp32"))
    progress(2, 3, "checking the baselines")
    return [_artifact(bundle, model, folder, threads) for model in models]


def _pytorch_files(bundle: Bundle, folder: Path) -> ModelFiles:
    folder.mkdir(parents=True)
    weights = bundle.manifest.weights
    shutil.copyfile(bundle.weights, folder / weights)
    return ModelFiles(
        runtime="pytorch",
        precision="fp32",
        main=weights,
        files=(weights,),
        size_bytes=bundle.manifest.weights_bytes,
        hints={"memory_format": "auto"},
    )


def _artifact(bundle: Bundle, model: ModelFiles, folder: Path, threads: int) -> Artifact:
    name = f"original-{model.runtime}-{model.precision}"
    parity = check_parity(bundle, model, folder / name, threads=threads)
    if not parity.passed:
        raise ConversionError(
            "The original does not survive its conversion.",
            where=name,
            value=f"maximum error {parity.max_abs_error:.3g}, cosine {parity.cosine:.6f}, "
            f"top-1 agreement {parity.top1_agreement}",
            fix=f"Allowed are {parity.limits}.",
        )
    return Artifact(id=name, baseline=True, recipe=None, model=model, parity=parity)
