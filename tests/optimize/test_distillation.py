from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leanloop.bundle import Bundle, pack
from leanloop.core.contracts import SplitSummary
from leanloop.core.errors import TrialError
from leanloop.core.store import Store
from leanloop.optimize import Workshop
from leanloop.optimize.techniques import distillation
from leanloop.optimize.techniques.channel_pruning import ChannelPruningConfig, prune
from leanloop.optimize.techniques.distillation import DistillationConfig, distil, distillation_loss, regression_loss
from tests.conftest import Project


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16), st.floats(0, 1), st.floats(0.5, 10))
def test_the_loss_is_the_formula(seed: int, alpha: float, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 3, (2, 5, 4))
    labels = rng.integers(0, 4, 5)
    entropy = -np.log(_softmax(student)[np.arange(5), labels]).mean()
    p, q = _softmax(teacher / temperature), _softmax(student / temperature)
    divergence = (p * np.log(p / q)).sum(axis=1).mean()
    expected = alpha * entropy + (1 - alpha) * temperature**2 * divergence
    tensors = torch.tensor(student), torch.tensor(teacher)
    found = distillation_loss(*tensors, torch.tensor(labels), alpha, temperature)
    assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    unlabelled = distillation_loss(*tensors, None, alpha, temperature)
    assert float(unlabelled) == pytest.approx(temperature**2 * divergence, rel=1e-6, abs=1e-9)


def test_a_regression_learns_targets_and_teacher() -> None:
    student, teacher, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]), torch.tensor([0.0, 2.0])
    assert float(regression_loss(student, teacher, targets, 0.75)) == pytest.approx(0.75 * 0.5 + 0.25 * 2.0)
    assert float(regression_loss(student, teacher, None, 0.75)) == pytest.approx(2.0)


def test_a_pruned_network_recovers(workshop: Workshop) -> None:
    bundle = workshop.bundle
    module, validation = bundle.module(), bundle.split("validation")
    prune(module, ChannelPruningConfig(ratio=0.75), workshop)
    pruned = bundle.score(bundle.predict(module, validation), validation)
    distil(module, DistillationConfig(epochs=20), workshop)
    assert not module.training
    recovered = bundle.score(bundle.predict(module, validation), validation)
    assert recovered > max(pruned + 0.2, 0.9)


def test_the_same_seed_gives_the_same_weights(workshop: Workshop) -> None:
    outcomes = []
    for seed in (0, 0, 1):
        module = workshop.bundle.module()
        distil(module, DistillationConfig(epochs=1, samples=256, seed=seed), workshop)
        outcomes.append(module.state_dict()["head.weight"])
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_what_remembers_stays_what_it_was_on_old_samples(workshop: Workshop) -> None:
    bundle, validation = workshop.bundle, workshop.bundle.split("validation")
    moved = []
    for remembers in (True, False):
        student = bundle.module()
        prune(student, ChannelPruningConfig(ratio=0.75), workshop)
        before = bundle.predict(student, validation)["logits"]
        distil(student, DistillationConfig(epochs=4, alpha=0.0, weight_decay=0.0, remembers=remembers), workshop)
        moved.append(np.abs(bundle.predict(student, validation)["logits"] - before).mean())
    assert moved[0] < 0.1 * moved[1]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_only_old_samples_are_remembered(workshop: Workshop, share: float) -> None:
    bundle, split = workshop.bundle, workshop.bundle.split("train")
    student, old = bundle.module(), np.arange(len(split)) < share * len(split)
    prune(student, ChannelPruningConfig(ratio=0.75), workshop)
    own = bundle.predict(student, split)["logits"]
    teacher = distillation.teacher_outputs(workshop)
    kept = teacher[0].copy()
    (found,) = distillation._with_own(student, teacher, split, old, workshop)
    np.testing.assert_array_equal(found[~old], kept[~old])
    np.testing.assert_allclose(found[old], own[old], atol=0.1 * np.abs(own).max())
    np.testing.assert_array_equal(teacher[0], kept)


def test_what_comes_again_is_trained_on_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows as samples need not be the samples: a part of a pass in which live ones come again."""
    split = workshop.bundle.split("train")
    given: list[torch.Tensor] = []

    def keep(module: object, inputs: list[torch.Tensor], *others: object, **named: object) -> float:
        given.extend(inputs)
        return 0.0

    monkeypatch.setattr(distillation, "train", keep)
    monkeypatch.setattr(workshop.bundle, "training_rows", lambda: np.arange(len(split)) // 2)
    distil(workshop.bundle.module(), DistillationConfig(), workshop)
    assert len(given[0]) == len(split)
    np.testing.assert_array_equal(given[0].numpy()[::2], given[0].numpy()[1::2])


def test_the_teacher_runs_once(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Workshop(workshop.bundle, Store(str(tmp_path)), 1)
    first = distillation.teacher_outputs(fresh)
    monkeypatch.setattr(distillation, "_run_teacher", lambda _: pytest.fail("it ran again"))
    np.testing.assert_array_equal(distillation.teacher_outputs(fresh)[0], first[0])
    assert first[0].shape == (len(workshop.bundle.split("train")), 10)


def test_divergence_is_said(workshop: Workshop) -> None:
    with pytest.raises(TrialError, match="diverged"):
        distil(workshop.bundle.module(), DistillationConfig(epochs=8, learning_rate=1e12), workshop)


def test_training_without_labels_follows_the_teacher(project: Project, tmp_path: Path) -> None:
    data = project.folder / "data.py"
    data.write_text(
        data.read_text().replace("TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long())", "TensorDataset(x)")
    )
    project.document["metric"] = "agreement"
    pack(project.settings, project.folder, tmp_path / "bundle")
    workshop = Workshop(Bundle(tmp_path / "bundle"), Store(str(tmp_path / "store")), 1)
    validation = workshop.bundle.split("validation")
    teacher = workshop.bundle.predict(workshop.bundle.module(), validation)
    student = workshop.bundle.module()
    with torch.no_grad():
        student.head.weight.zero_()  # type: ignore[union-attr, operator]
    before = workshop.bundle.score(workshop.bundle.predict(student, validation), validation, teacher)
    distil(student, DistillationConfig(epochs=40, batch_size=16), workshop)
    after = workshop.bundle.score(workshop.bundle.predict(student, validation), validation, teacher)
    assert after > max(before, 0.8)


def test_short_training_is_much_cheaper(bundle: Bundle) -> None:
    full = distillation.choices(bundle, 5.0)[0]
    short = distillation.shorten(full, bundle)
    assert distillation.work(short, bundle) < 0.1 * distillation.work(full, bundle)
    double = distillation.scale(full, 2)
    assert double is not None
    assert distillation.work(double, bundle) == 2 * distillation.work(full, bundle)
    assert distillation.scale(full, 0.9 / full.epochs) is None


def test_more_time_is_spent_on_longer_training_at_a_higher_peak(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bundle.manifest.splits, "train", SplitSummary(samples=54_000, labelled=True))
    found = [distillation.choices(bundle, minutes)[0] for minutes in (1.0, 7.0, 16.0, 60.0)]
    assert [config.epochs for config in found] == [2, 4, 8, 16]
    assert [config.learning_rate for config in found] == [0.05, 0.05, 0.07, 0.1]


def test_small_data_gets_more_epochs(bundle: Bundle) -> None:
    config = distillation.choices(bundle, 0.5)[0]
    assert config.epochs * (len(bundle.split("train")) // config.batch_size) >= 600
