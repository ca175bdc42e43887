"""The judgement's figures, which need no server: how often it cries wolf, and how soon it sees what is there.

The reference is the validation split; windows are drawn from ``test`` without replacement, shifted in pixel space, and
answered by the shipped Fashion-MNIST CNN: by its fp32 ONNX export, and by a plain INT8 version whose parent that is.
All answers are computed once. Thresholds were tuned on seeds below 1,000 only; a record uses seeds from 1,000 on.

    taskset -c 1 .venv/bin/python benchmarks/loop/judge.py

Raw results go to ``benchmarks/out``; exit status 1 tells that a bar was missed.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from leanloop.core.files import atomic_file, write_json
from leanloop.core.settings import MonitoringSettings
from leanloop.monitoring.judge import Baseline, ParentAnswers, Persistence, WindowVerdict, judge
from leanloop.pipelines.demo.shifts import Shift, drawn, shifted

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure
from loop import served, topic
from loop.served import data, normalised

SETTINGS = MonitoringSettings()
SHIFTS: tuple[Shift, ...] = ("brightness", "rotation", "noise", "blur", "class-mix")
QUIET_WINDOWS = 2_000
SEEDS = 20
SIZES = (500, 100, 50)
POOLS: tuple[tuple[Shift, int], ...] = (
    ("none", 1),
    *((shift, severity) for shift in SHIFTS if shift != "class-mix" for severity in (3, 1)),
)


@dataclass
class World:
    """Pixels in [0, 1] and true classes of both splits, and what both models answer to every pool."""

    images: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]

    def inputs(self, pool: str) -> np.ndarray:
        """As the model takes them, [samples, 1, 28, 28]."""
        return normalised(self.images[pool])


def figures(out: Path, seed: int) -> list[Figure]:
    """Both models' figures; raw results go to a folder."""
    world = load(out)
    raw: dict[str, Any] = {"seed": seed, "settings": SETTINGS.model_dump(mode="json")}
    lines: list[Figure] = []
    for model in ("fp32", "int8"):
        started = time.monotonic()
        raw[model] = measure(world, model, seed)
        lines += figures_of(model, raw[model])
        print(f"  {model}: {time.monotonic() - started:.0f} s", flush=True)
    write_json(out / f"judge-{seed}.json", raw)
    return lines


def measure(world: World, model: str, seed: int) -> dict[str, Any]:
    """Everything about one model, as raw results."""
    baseline = Baseline.fit(
        {"image": world.inputs("validation")},
        world.answers[f"validation/{model}"],
        world.answers["validation/fp32"] if model != "fp32" else None,
        world.classes["validation"],
        task="classification",
    )
    quiet = {str(size): quiet_traffic(world, model, baseline, size, seed) for size in SIZES}
    shifts = {
        f"{shift}-{severity}": [
            shifted_traffic(world, model, baseline, shift, severity, windows, seed + index) for index in range(SEEDS)
        ]
        for severity, windows in ((3, 3), (1, 10))
        for shift in SHIFTS
    }
    return {"accuracy": baseline.accuracy, "quiet": quiet, "shifts": shifts}


def quiet_traffic(world: World, model: str, baseline: Baseline, size: int, seed: int) -> dict[str, Any]:
    """2,000 windows of test images as they are, resampled whenever all have been seen."""
    watches = {question: _watch() for question in ("inputs", "estimate", "agreement")}
    triggers, alarms, judged = dict.fromkeys(watches, 0), [], 0
    rng, count = np.random.default_rng(seed), 0
    while count < QUIET_WINDOWS:
        order = rng.permutation(len(world.classes["test"]))
        for rows in order.reshape(-1, size)[: QUIET_WINDOWS - count]:
            verdict = verdict_on(world, model, baseline, "none-1", rows)
            count, judged = count + 1, judged + (verdict.inputs_drift is not None)
            for question, answer in _answers(verdict).items():
                before = watches[question].state
                triggers[question] += watches[question].add(answer) == "drifting" != before
            if verdict.inputs_drift:
                alarms.append(
                    [count, [feature.name for feature in verdict.drift.features if feature.drifts], _clipped(verdict)]
                )
    return {"windows": count, "judged": judged, "triggers": triggers, "alarms": alarms}


def shifted_traffic(
    world: World, model: str, baseline: Baseline, shift: Shift, severity: int, windows: int, seed: int
) -> dict[str, Any]:
    """One seed's windows of 500 under a shift."""
    pool = "none-1" if shift == "class-mix" else f"{shift}-{severity}"
    rng, size = np.random.default_rng(seed), SETTINGS.window
    rows = drawn(world.classes["test"], windows * size, shift, severity, rng)
    watches = {question: _watch() for question in ("inputs", "estimate", "agreement")}
    raised: dict[str, int] = {}
    alarming: dict[str, int] = {}
    errors = []
    for index, chosen in enumerate(rows.reshape(windows, size), start=1):
        verdict = verdict_on(world, model, baseline, pool, chosen)
        for question, answer in _answers(verdict).items():
            if watches[question].add(answer) == "drifting":
                raised.setdefault(question, index)
        true = (world.answers[f"{pool}/{model}"][chosen].argmax(axis=1) == world.classes["test"][chosen]).mean()
        assert verdict.estimate.accuracy is not None, "a window of 500 is large enough"
        errors.append([float(true), verdict.estimate.accuracy.value])
        for feature in verdict.drift.features:
            alarming[feature.name] = alarming.get(feature.name, 0) + feature.drifts
    return {"seed": seed, "raised": raised, "true_and_estimated_accuracy": errors, "alarming_windows": alarming}


def verdict_on(world: World, model: str, baseline: Baseline, pool: str, rows: np.ndarray) -> WindowVerdict:
    """The live code's verdict on some images of a pool."""
    asked = np.arange(min(SETTINGS.parent_samples, len(rows)))
    parent = ParentAnswers(asked, world.answers[f"{pool}/fp32"][rows[asked]]) if model != "fp32" else None
    return judge(
        baseline, {"image": normalised(world.images[pool][rows])}, world.answers[f"{pool}/{model}"][rows], SETTINGS,
        parent=parent,
    )  # fmt: skip


def figures_of(model: str, raw: dict[str, Any]) -> list[Figure]:
    """One line per figure."""
    lines = []
    for size, found in raw["quiet"].items():
        name = f"{model}: false alarms in {found['windows']:,} quiet windows of {size}"
        lines.append(Figure(name, found["triggers"]["inputs"], "triggers", at_most=2))
        lines.append(Figure("  of them judged, not unknown", found["judged"], "windows"))
        lines.append(Figure("  alarming windows, before persistence", len(found["alarms"]), "windows"))
        for question in ("estimate", "agreement"):
            lines.append(Figure(f"  false alarms of the {question}", found["triggers"][question], "triggers"))
    for key, seeds in raw["shifts"].items():
        shift, severity = key.rsplit("-", 1)
        within, bar = ((3, 19), (10, 10))[severity == "1"]
        seen = sum("inputs" in found["raised"] for found in seeds)
        name = f"{model}: {shift} at severity {severity} seen within {within} windows"
        lines.append(Figure(name, seen, f"of {len(seeds)}", at_least=bar))
        pairs = np.array([pair for found in seeds for pair in found["true_and_estimated_accuracy"]])
        lines.append(Figure("  true accuracy", 100 * pairs[:, 0].mean(), "%"))
        lines.append(Figure("  accuracy estimated without labels", 100 * pairs[:, 1].mean(), "%"))
        if model != "fp32":
            falls = sum("agreement" in found["raised"] for found in seeds)
            lines.append(Figure("  agreement falls, at equal difficulty", falls, f"of {len(seeds)}"))
    return lines


def load(folder: Path) -> World:
    """Both splits, and all answers: computed now, or kept from an earlier call."""
    images, classes = {}, {}
    for split in ("validation", "test"):
        tensors = data.load(split, served.ROOT / ".tools/debian/usr/share/datasets/fashion-mnist").tensors
        images[split], classes[split] = tensors[0].numpy() * data.STD + data.MEAN, tensors[1].numpy()
    pools = {"validation": images["validation"]} | {
        f"{shift}-{severity}": shifted(images["test"], shift, severity, np.random.default_rng(0))
        for shift, severity in POOLS
    }
    path = folder / "answers.npz"
    if not path.exists():
        answers = _answer_all(pools, folder)
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **answers)
    with np.load(path, allow_pickle=False) as archive:
        return World(pools, classes, {name: archive[name] for name in archive.files})


def _answer_all(pools: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    shipped = served.make(folder)
    answers = {}
    for name, model in (("fp32", shipped.original), ("int8", shipped.int8)):
        for pool, images in pools.items():
            answers[f"{pool}/{name}"] = served.answers(model.folder, model.files, normalised(images))
            print(f"  {name} answered {pool}", flush=True)
    return answers


def _watch() -> Persistence:
    return Persistence(SETTINGS.raise_after, SETTINGS.of, SETTINGS.clear_after)


def _answers(verdict: WindowVerdict) -> dict[str, bool | None]:
    falling = {"falling": True, "ok": False, "unknown": None}
    return {
        "inputs": verdict.inputs_drift,
        "estimate": falling[verdict.estimate.state],
        "agreement": falling[verdict.agreement.state],
    }


def _clipped(verdict: WindowVerdict) -> list[str]:
    return [found.name for found in verdict.clipping if found.state == "drifting"]


if __name__ == "__main__":
    sys.exit(topic.main(figures, __doc__))
