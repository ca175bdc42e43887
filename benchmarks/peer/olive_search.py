"""Olive's search over static quantisation: the fastest that keeps the accuracy, by its own evaluator.

    python olive_search.py WORK BATCH DROP SECONDS

Runs in an environment of its own, on what ``peers.py`` left in WORK: ``model.onnx``, ``calibration.npz`` and
``validation.npz``, whose ``target`` are the labels; without labels the original's answers are kept by their mean
cosine. DROP is the share of either that may be lost. What the search has found after SECONDS counts.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from olive.data.registry import Registry
from olive.evaluator.accuracy import AccuracyBase
from olive.workflows import run
from torch.utils.data import Dataset


class Samples(Dataset[Any]):
    """Inputs by name with a label; calibration samples have none."""

    def __init__(self, file: str) -> None:
        with np.load(file) as archive:
            self._arrays = {name: archive[name] for name in archive.files}

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, row: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        inputs = {name: torch.from_numpy(values[row]) for name, values in self._arrays.items() if name != "target"}
        label = self._arrays["target"][row] if "target" in self._arrays else 0
        return inputs, torch.as_tensor(label)


@Registry.register_dataset("samples")
def samples(file: str, **_: Any) -> Samples:
    return Samples(file)


@Registry.register_post_process("largest_logit")
def largest_logit(output: torch.Tensor, **_: Any) -> torch.Tensor:
    return output.argmax(-1)


@Registry.register_post_process("as_it_is")
def as_it_is(output: torch.Tensor, **_: Any) -> torch.Tensor:
    return output


def data(name: str, file: Path, batch: int, after: str) -> dict[str, Any]:
    """A data config of Olive's."""
    return {
        "name": name,
        "type": "DataContainer",
        "load_dataset_config": {"type": "samples", "params": {"file": str(file)}},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": after},
        "dataloader_config": {"type": "default_dataloader", "params": {"batch_size": batch}},
    }


def keep_cosine(work: Path) -> None:
    """Judge by the mean cosine from now on, in the place of accuracy; the original's answers become the labels.

    Olive 0.13 names its metrics in a list that takes no others, and fails to write down a "custom" one.
    """

    # Olive knows it by its name as soon as the class is there: where there are labels, it must not be.
    class Cosine(AccuracyBase):
        name: str | None = "accuracy_score"

        def measure(self, model_output: Any, target: torch.Tensor) -> float:
            return float(torch.nn.functional.cosine_similarity(model_output.preds, target, dim=-1).mean())

    with np.load(work / "validation.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    session = onnxruntime.InferenceSession(str(work / "model.onnx"), providers=["CPUExecutionProvider"])
    (work / "answered.npz").unlink(missing_ok=True)
    np.savez(work / "answered.npz", allow_pickle=False, **arrays, target=session.run(None, arrays)[0])
    assert AccuracyBase.registry["accuracy_score"] is Cosine


def main(work: Path, batch: int, drop: float, seconds: int) -> None:
    out, after, judged = work / f"olive-{batch}", "largest_logit", work / "validation.npz"
    with np.load(judged) as archive:
        labelled = "target" in archive.files
    chosen: dict[str, Any] = {}
    if not labelled:
        keep_cosine(work)
        after, judged = "as_it_is", work / "answered.npz"
        # With nodes of all kinds the mask of the attention is quantised, too: a cosine of 0.35 instead of 0.93.
        chosen = {"op_types_to_quantize": ["MatMul", "Gemm"]}
    workflow = {
        "input_model": {"type": "ONNXModel", "model_path": str(work / "model.onnx")},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [
            data("calibration", work / "calibration.npz", 10, after),
            data("validation", judged, 250 if labelled else 50, after),
            data("timed", judged, batch, after),
        ],
        "evaluators": {
            "both": {
                # Named, since Olive 0.13 stumbles over an evaluator without a type.
                "type": "OnnxEvaluator",
                "metrics": [
                    {
                        "name": "latency",
                        "type": "latency",
                        "data_config": "timed",
                        "sub_types": [{"name": "p50", "priority": 1}],
                        "user_config": {
                            "inference_settings": {
                                "onnx": {"session_options": {"intra_op_num_threads": 1, "inter_op_num_threads": 1}}
                            }
                        },
                    },
                    {
                        "name": "accuracy",
                        "type": "accuracy",
                        "data_config": "validation",
                        "sub_types": [
                            {
                                "name": "accuracy_score",
                                "priority": 2,
                                "metric_config": {"task": "multiclass", "num_classes": 10},
                                "goal": {"type": "percent-max-degradation", "value": 100 * drop},
                            }
                        ],
                    },
                ],
            }
        },
        "passes": {"quantised": {"type": "OnnxStaticQuantization", "data_config": "calibration", **chosen}},
        "search_strategy": {"execution_order": "joint", "sampler": "tpe", "seed": 0, "max_time": seconds},
        "evaluator": "both",
        "host": "here",
        "target": "here",
        # One for each batch size: what was measured is kept there by model, whatever measured it.
        "cache_dir": str(work / f"olive-cache-{batch}"),
        "output_dir": str(out / "workflow"),
    }
    found = run(workflow)
    best = found.get_best_candidate()
    if best is None:
        sys.exit(f"nothing that Olive found within {seconds} s holds the accuracy")
    shutil.copy(best.model_path, out / "model.onnx")
    (out / "found.json").write_text(json.dumps({"metrics": str(best.metrics_value), "config": str(best.model_config)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
