"""What is refused before anything is trained, and what is not."""

from __future__ import annotations

import pytest

from leanloop.bundle import Bundle
from leanloop.core.errors import SettingsError
from leanloop.core.settings import Settings
from leanloop.optimize import check_feasible


def _asking(small: Settings, techniques: tuple[str, ...], size: int) -> Settings:
    goal = small.goal.model_copy(update={"max_size_bytes": size})
    optimize = small.optimize.model_copy(update={"techniques": techniques})
    return small.model_copy(update={"goal": goal, "optimize": optimize})


@pytest.mark.parametrize(
    "techniques",
    [("channel_pruning", "distillation"), ("student", "distillation"), ("block_removal", "distillation")],
    ids=["channels", "a student", "blocks"],
)
def test_a_smaller_architecture_reaches_what_integers_do_not(
    bundle: Bundle, small: Settings, techniques: tuple[str, ...]
) -> None:
    """A student alone, in 3 % of the bytes, was called out of reach."""
    weights = bundle.manifest.weights_bytes
    check_feasible(_asking(small, techniques, weights // 20), bundle.manifest)
    with pytest.raises(SettingsError, match="out of reach"):
        check_feasible(_asking(small, techniques, 100), bundle.manifest)


def test_without_one_a_size_below_a_byte_per_weight_is_refused(bundle: Bundle, small: Settings) -> None:
    weights = bundle.manifest.weights_bytes
    asked = _asking(small, ("distillation", "ort_static_int8", "openvino_bf16"), weights // 20)
    with pytest.raises(SettingsError, match="out of reach") as refused:
        check_feasible(asked, bundle.manifest)
    assert str(weights // 5) in str(refused.value)
    check_feasible(_asking(small, ("ort_static_int8",), weights // 4), bundle.manifest)
