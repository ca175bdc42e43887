"""An owner's smaller architecture takes the original's place and learns from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from leanloop.bundle import Bundle, pack
from leanloop.core.errors import SettingsError, TrialError
from leanloop.core.settings import TargetName, load_settings
from leanloop.core.store import Store
from leanloop.optimize import TECHNIQUES, Recipe, Workshop
from leanloop.optimize.apply import make_files, make_prefix
from leanloop.optimize.space import make_space
from leanloop.optimize.techniques.distillation import DistillationConfig, anew
from leanloop.optimize.techniques.student import StudentConfig, _size, begin, build, choices, other_chains

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"

STUDENTS = """
import torch
from torch import nn

def small(width=16, depth=1, outputs=10):
    layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))

class Mixed(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.maps = nn.Conv2d(1, channels, 5, padding=2)
        self.hidden = nn.Linear(64, hidden)
        self.head = nn.Linear(channels + hidden, 10)

    def forward(self, x):
        return self.head(torch.cat([self.maps(x).mean((2, 3)), torch.relu(self.hidden(x.flatten(1)))], 1))

def mixed(channels, hidden): return Mixed(channels, hidden)

def normed():
    return nn.Sequential(nn.Flatten(), *(
        layer for _ in range(6) for layer in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())
    ), nn.Linear(64, 10))

def no_module(): return 7

def fails(): raise RuntimeError("no luck")
"""


def _pack(folder: Path, student: str = "students:small", **parameters: list[int]) -> Bundle:
    (folder / "students.py").write_text(STUDENTS)
    overrides = {
        "model.student": student,
        "model.student_parameters": parameters,
        "model.code": [str(EXAMPLE / "model.py"), str(EXAMPLE / "data.py"), str(folder / "students.py")],
    }
    pack(load_settings(EXAMPLE / "params.yaml", overrides), EXAMPLE, folder / "bundle")
    return Bundle(folder / "bundle")


@pytest.fixture
def taught(tmp_path: Path) -> Workshop:
    return Workshop(_pack(tmp_path, width=[16, 64], depth=[2, 1]), Store(str(tmp_path / "store")), threads=1)


def test_all_combinations_are_tried_the_largest_first(taught: Workshop) -> None:
    found = [json.loads(config.arguments) for config in choices(taught.bundle, 5.0)]
    assert [(one["depth"], one["width"]) for one in found] == [(2, 64), (1, 64), (2, 16), (1, 16)]
    assert TECHNIQUES["student"].why_not(taught.bundle) is None


def test_what_is_further_down_is_smaller_and_faster_and_the_rest_are_ladders_of_their_own(tmp_path: Path) -> None:
    """A convolution at full resolution has few weights and much to compute; a linear layer the other way round."""
    bundle = _pack(tmp_path, "students:mixed", channels=[8, 4], hidden=[64, 16])
    orders = [choices(bundle, 5.0), *other_chains(bundle, 5.0).values()]
    for order in orders:
        sizes = [_size(build(config, bundle), bundle) for config in order]
        assert sizes == sorted(sizes, reverse=True)
        assert [work for _, work in sizes] == sorted((work for _, work in sizes), reverse=True)
    assert sorted(config.arguments for order in orders for config in order) == sorted(
        f'{{"channels": {channels}, "hidden": {hidden}}}' for channels in (8, 4) for hidden in (64, 16)
    )
    assert len(orders) == 2


def test_combinations_that_cannot_be_built_are_left_out(tmp_path: Path) -> None:
    bundle = _pack(tmp_path, width=[16, -1])
    assert [json.loads(config.arguments) for config in choices(bundle, 5.0)] == [{"width": 16}]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(TrialError, match="no luck"):
        choices(_pack(other, "students:fails"), 5.0)


def test_it_learns_and_comes_back_from_the_store(taught: Workshop) -> None:
    configs = (StudentConfig(arguments='{"width": 64}'), DistillationConfig(epochs=30, learning_rate=0.1))
    made, again = make_prefix(configs, taught), make_prefix(configs, taught)
    validation = taught.bundle.split("validation")
    scores = [taught.bundle.score(taught.bundle.predict(one.module, validation), validation) for one in (made, again)]
    assert scores[0] == scores[1] > 0.9
    assert isinstance(again.module, nn.Sequential)
    assert made.training_seconds > 0


def test_the_same_seed_gives_the_same_weights(taught: Workshop) -> None:
    first, second, other = (build(StudentConfig(seed=seed), taught.bundle)[1].weight for seed in (0, 0, 1))
    assert (first == second).all()
    assert (first != other).any()


def test_fresh_weights_are_taught_faster_and_pruned_copies_are_not(tmp_path: Path) -> None:
    bundle = _pack(tmp_path, width=[16])
    settings = load_settings(
        EXAMPLE / "params.yaml", {"optimize.techniques": ["student", "channel_pruning", "distillation"]}
    )
    space = make_space(bundle, settings)
    rates = {name: space.torch(name, 1, 2)[-1].document()["learning_rate"] for name in ("student", "channel_pruning")}
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in bundle.module().modules())
    assert rates["student"] == pytest.approx(4 * rates["channel_pruning"])
    assert [space.is_fresh(name) for name in ("student", "channel_pruning")] == [True, False]
    plain = DistillationConfig(optimizer="adamw", learning_rate=1e-3)
    assert anew(plain, bundle) == plain, "AdamW's rates suit both"


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_untrained_files_are_as_large_as_trained_ones(target: TargetName, tmp_path: Path) -> None:
    """A fresh batch norm folds to no bias at all: within a limit of bytes that the trained files then broke."""
    workshop = Workshop(_pack(tmp_path, "students:normed"), Store(str(tmp_path / "store")), threads=1)
    recipe = Recipe(target, (StudentConfig(), DistillationConfig(epochs=1)))
    sizes = [
        make_files(one, workshop, tmp_path / str(number)).size_bytes
        for number, one in enumerate((recipe.untrained(), recipe))
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.005)


def test_a_wrong_student_is_told(taught: Workshop, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="shape of the outputs"):
        begin(taught.bundle.module(), StudentConfig(arguments='{"outputs": 9}'), taught)
    with pytest.raises(TrialError, match="unexpected keyword"):
        build(StudentConfig(arguments='{"breadth": 9}'), taught.bundle)
    for name, why in (("no_module", "must return"), ("fails", "no luck")):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(TrialError, match=why):
            build(StudentConfig(), _pack(folder, f"students:{name}"))


def test_a_bundle_without_one_says_so(workshop: Workshop) -> None:
    reason = TECHNIQUES["student"].why_not(workshop.bundle)
    assert reason is not None
    assert "model.student" in reason


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"model.student_parameters": {"width": [1]}}, "there is no student"),
        ({"model.student": "students:small", "model.student_parameters": {"width": []}}, "no values for width"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        load_settings(EXAMPLE / "params.yaml", overrides)
