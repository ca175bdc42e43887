"""Olive's search over static quantisation: the fastest that keeps the accuracy, by its own evaluator.

    python olive_search.py WORK BATCH

Runs in an environment of its own, on what ``peers.py`` left in WORK: ``model.onnx``, ``calibration.npz`` and
``validation.npz``, whose ``target`` are the labels.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from olive.data.registry import Registry
from olive.workflows import run
from torch.utils.data import Dataset

MAX_DROP = 0.0125
"""On validation, as our own searches are allowed (``rows.py``)."""

SECONDS = 480
"""Of the search; what it has found by then counts."""


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
        return inputs, torch.tensor(int(label))


@Registry.register_dataset("samples")
def samples(file: str, **_: Any) -> Samples:
    return Samples(file)


@Registry.register_post_process("largest_logit")
def largest_logit(output: torch.Tensor, **_: Any) -> torch.Tensor:
    return output.argmax(-1)


def data(name: str, file: Path, batch: int) -> dict[str, Any]:
    """A data config of Olive's."""
    return {
        "name": name,
        "type": "DataContainer",
        "load_dataset_config": {"type": "samples", "params": {"file": str(file)}},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "largest_logit"},
        "dataloader_config": {"type": "default_dataloader", "params": {"batch_size": batch}},
    }


def main(work: Path, batch: int) -> None:
    out = work / f"olive-{batch}"
    workflow = {
        "input_model": {"type": "ONNXModel", "model_path": str(work / "model.onnx")},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [
            data("calibration", work / "calibration.npz", 10),
            data("validation", work / "validation.npz", 250),
            data("timed", work / "validation.npz", batch),
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
                                "goal": {"type": "percent-max-degradation", "value": 100 * MAX_DROP},
                            }
                        ],
                    },
                ],
            }
        },
        "passes": {"quantised": {"type": "OnnxStaticQuantization", "data_config": "calibration"}},
        "search_strategy": {"execution_order": "joint", "sampler": "tpe", "seed": 0, "max_time": SECONDS},
        "evaluator": "both",
        "host": "here",
        "target": "here",
        # One for each batch size: what was measured is kept there by model, whatever measured it.
        "cache_dir": str(work / f"olive-cache-{batch}"),
        "output_dir": str(out / "workflow"),
    }
    found = run(workflow)
    best = found.get_best_candidate()
    shutil.copy(best.model_path, out / "model.onnx")
    (out / "found.json").write_text(json.dumps({"metrics": str(best.metrics_value), "config": str(best.model_config)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
