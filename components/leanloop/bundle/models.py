"""Loading the three kinds of model file, none of which is trusted more than it must be.

* weights + factory: ``safetensors``, or ``torch.load(weights_only=True)``; never a fallback to unpickling
* ``.onnx``: external data only from files that the settings list, inside the model's folder
* ``.pt2``: is code; one that holds anything but plain tensors needs ``model.trust: true``
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import safetensors
import safetensors.torch
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import nn

from leanloop.core.errors import BundleError, StoreError
from leanloop.core.files import inside


def load_factory(factory: Callable[[], Any], weights: Path) -> nn.Module:
    """Build the owner's architecture and give it its weights, in eval mode.

    Raises:
        BundleError: The factory fails or returns no module; the weights are truncated or do not fit.
    """
    try:
        module = factory()
    except Exception as error:
        raise BundleError("The factory failed.", value=f"{type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise BundleError("The factory must return a torch.nn.Module.", value=type(module).__name__)
    state = read_weights(weights)
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise BundleError(
            "The weights have other keys than the factory's model.",
            where=str(weights),
            value=f"missing {_some(missing)}; unexpected {_some(unexpected)}",
            fix="Use the factory that made these weights.",
        )
    wrong = [
        f"{key}: {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if state[key].shape != own[key].shape
    ]
    if wrong:
        raise BundleError(
            "The weights have other shapes than the factory's model.", where=str(weights), value=_some(wrong)
        )
    module.load_state_dict(state)
    return module.eval()


def read_weights(weights: Path) -> dict[str, torch.Tensor]:
    """A state dict from ``.safetensors`` or, with ``weights_only=True``, from ``.pt`` and ``.pth``.

    Raises:
        BundleError: Truncated, not such a file, not a flat dict of tensors, or one that wants to run code.
    """
    try:
        if weights.suffix == ".safetensors":
            return safetensors.torch.load_file(weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise BundleError(
            "The weights cannot be read: the file is truncated, or holds more than tensors.",
            where=str(weights),
            value=str(error).splitlines()[0],
            fix="Save them again, best with safetensors.torch.save_file(model.state_dict(), path).",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleError(
            "The weights file holds no state dict.",
            where=str(weights),
            value=type(state).__name__,
            fix="Save model.state_dict(), not the model.",
        )
    return state


def load_pt2(file: Path, *, trust: bool) -> nn.Module:
    """Load a ``torch.export`` archive as a module.

    Raises:
        BundleError: It holds code or pickled objects and ``trust`` is false, or cannot be read.
    """
    try:
        dangers = [] if trust else _pt2_dangers(file)
        if dangers:
            raise BundleError(
                "The .pt2 file holds pickled objects or compiled code, which would run on loading.",
                where=str(file),
                value=_some(dangers),
                fix="If you trust its origin, set `model.trust: true`.",
            )
        return torch.export.load(file).module()
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError, KeyError) as error:
        raise BundleError("The .pt2 file cannot be read.", where=str(file), value=str(error).splitlines()[0]) from error


def _pt2_dangers(file: Path) -> list[str]:
    # torch.export.load unpickles some members without restriction; one that passes the restricted unpickler holds
    # plain tensors and containers only, and so cannot do harm in the other either.
    dangers = []
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            if member.endswith((".so", ".o", ".cubin", ".a", ".dll", ".dylib")) or "/custom_obj" in member:
                dangers.append(member)
            elif member.endswith((".pt", ".pth", ".pkl", ".pickle")):
                try:
                    torch.load(io.BytesIO(archive.read(member)), weights_only=True)
                except (pickle.UnpicklingError, RuntimeError, EOFError):
                    dangers.append(member)
    return dangers


def check_onnx(file: Path, allowed_external: tuple[str, ...]) -> onnx.ModelProto:
    """Parse and check an ONNX file; its external data must be listed and lie beside it.

    Raises:
        BundleError: It is truncated, invalid, or refers to files that it may not read.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:
        raise BundleError(
            "The .onnx file cannot be parsed.", where=str(file), value=str(error).splitlines()[0]
        ) from error
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        location = ExternalDataInfo(tensor).location
        try:
            path = inside(file.parent, location)
        except StoreError as error:
            raise BundleError(
                "The .onnx file reads a file outside its folder.", where=str(file), value=location
            ) from error
        if location not in allowed_external or not path.is_file():
            raise BundleError(
                "The .onnx file refers to external data that is not listed or not there.",
                where=str(file),
                value=location,
                fix="List it under `model.external_data`.",
            )
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        raise BundleError("The .onnx file is not valid.", where=str(file), value=str(error).splitlines()[0]) from error
    return model


def _some(items: list[str], most: int = 3) -> str:
    shown = ", ".join(items[:most]) or "none"
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
