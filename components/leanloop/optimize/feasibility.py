"""What can be known to be impossible before anything is trained."""

from __future__ import annotations

from leanloop.convert import TARGETS
from leanloop.core.contracts import BundleManifest
from leanloop.core.errors import SettingsError, UnsupportedError
from leanloop.core.settings import Settings
from leanloop.optimize.techniques import TECHNIQUES, TorchTechnique

_SMALLEST_MODEL_BYTES = 256


def check_feasible(settings: Settings, manifest: BundleManifest) -> None:
    """Refuse techniques and targets that are not there, and a size that nothing reaches.

    Raises:
        SettingsError: A technique is not registered, or the goal is out of reach.
        UnsupportedError: A target cannot be converted to here.
    """
    for name in settings.optimize.techniques:
        TECHNIQUES[name]
    for target in settings.targets:
        reason = TARGETS[target].can_convert()
        if reason is not None:
            raise UnsupportedError("A target cannot be converted to here.", where=f"targets: {target}", value=reason)
    smallest = _SMALLEST_MODEL_BYTES if _can_shrink(settings, manifest) else manifest.weights_bytes // 5
    asked = settings.goal.max_size_bytes
    if asked is not None and asked < smallest:
        raise SettingsError(
            "The size asked for is out of reach.",
            where="goal.max_size_bytes",
            value=asked,
            fix=f"The weights have {manifest.weights_bytes} bytes; with the allowed techniques nothing can be smaller "
            f"than about {smallest}.",
        )


def _can_shrink(settings: Settings, manifest: BundleManifest) -> bool:
    # INT8 alone stores a byte per weight of four; only a smaller architecture goes below that.
    named = [TECHNIQUES[name] for name in settings.optimize.techniques]
    shrinks = any(isinstance(technique, TorchTechnique) and technique.rebuild is not None for technique in named)
    return shrinks and manifest.kind == "factory" and "train" in manifest.splits
