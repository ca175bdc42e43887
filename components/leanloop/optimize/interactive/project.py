"""Live objects, written down as the project of an owner: code, weights, data and ``params.yaml``.

The module goes along as a pickle by value (cloudpickle), since its class may live in a notebook's cells; its weights
and the samples are plain files beside it. `leanloop run --params <project>/params.yaml` takes the same further, to a
served model.
"""

from __future__ import annotations

import copy
import pickle
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import cloudpickle
import numpy as np
import torch
import yaml
from torch import nn

from leanloop.bundle import Arrays, Split
from leanloop.core.errors import BundleError, DataError
from leanloop.core.files import atomic_file, write_text
from leanloop.core.settings import Settings, load_settings
from leanloop.core.workspace import with_absolute_paths

CODE, WEIGHTS, DATA, PARAMS = "live.py", "weights.pt", "data.npz", "params.yaml"

_INSTALLED = {"site-packages", "dist-packages"}

_CALIBRATION = 512
_SEED = 0

_CODE_HEAD = '''"""Written by leanloop.optimize: gives back the objects of the notebook that called it."""

import pickle
from pathlib import Path


def _load(name):
    with Path(__file__).with_name(f"{name}.pkl").open("rb") as stream:
        return pickle.load(stream)
'''

_FUNCTIONS = {
    "model": """

def model():
    return _load("model")
""",
    "student": """

def student(**arguments):
    return _load("student")(**arguments)
""",
    "metric": """

_metric = None


def metric(outputs, targets):
    global _metric
    _metric = _metric or _load("metric")
    return _metric(outputs, targets)
""",
}


@dataclass(frozen=True)
class Splits:
    """The samples of an owner.

    Attributes:
        train: None when nothing shall be trained.
        calibration: For quantisation; without it a part of train, or of validation.
        validation: What candidates are judged on.
        test: What the winner is scored on at the end, once; without it half of validation is set aside.
    """

    train: Split | None
    calibration: Split | None
    validation: Split
    test: Split | None

    def complete(self) -> dict[str, Split]:
        """The four splits by name, with what was not given drawn from the others (seeded)."""
        draw = np.random.default_rng(_SEED)
        validation, test = self.validation, self.test
        if test is None:
            if len(validation) < 2:
                raise DataError("One sample cannot be both validation and test.", fix="Give more, or a test loader.")
            rows = draw.permutation(len(validation))
            half = len(validation) // 2
            validation, test = validation.take(np.sort(rows[half:])), validation.take(np.sort(rows[:half]))
        calibration = self.calibration
        if calibration is None:
            source = validation if self.train is None else self.train
            calibration = source.take(draw.permutation(len(source))[:_CALIBRATION])
        found = {"train": self.train, "calibration": calibration, "validation": validation, "test": test}
        return {name: split for name, split in found.items() if split is not None}


def write_project(
    folder: Path,
    module: nn.Module,
    splits: Splits,
    *,
    name: str,
    metric: str | Callable[..., float] | None,
    student: Callable[..., nn.Module] | None,
    student_parameters: Mapping[str, Sequence[Any]],
    choices: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> Settings:
    """Write everything that a run needs.

    Args:
        folder: Of the project; files of an earlier call are replaced.
        module: The trained original.
        splits: Its samples.
        name: Of the model.
        metric: One of the settings' names, a function of the first output and the targets where higher is better, or
            None for the usual one.
        student: Returns a smaller untrained network.
        student_parameters: Values to try for its keyword arguments.
        choices: Sections of the settings, such as ``{"goal": {"batch_size": 1}}``.
        overrides: Dotted keys of the settings.

    Returns:
        The settings, with absolute paths.

    Raises:
        BundleError: An object cannot be pickled.
        SettingsError, DataError: Something does not fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = splits.complete()
    original = _on_cpu(module)
    live: dict[str, Any] = {"model": original}
    if student is not None:
        live["student"] = student
    if callable(metric):
        live["metric"] = metric
    with _by_value():
        for key, value in live.items():
            _pickle(key, value, folder / f"{key}.pkl")
    write_text(folder / CODE, _CODE_HEAD + "".join(_FUNCTIONS[key] for key in live))
    with atomic_file(folder / WEIGHTS) as temporary:
        torch.save(original.state_dict(), temporary)
    with atomic_file(folder / DATA) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **_columns(arrays))
    classifies = _classifies(arrays["validation"])
    document: dict[str, Any] = {
        "schema_version": 1,
        "model": {
            "name": name,
            "file": WEIGHTS,
            "factory": "live:model",
            "code": [CODE, *(f"{key}.pkl" for key in live)],
            "inputs": [
                {"name": key, "shape": list(values.shape[1:]), "dtype": str(values.dtype)}
                for key, values in arrays["validation"].inputs.items()
            ],
            "outputs": _output_names(original, arrays["validation"].inputs),
            "task": "classification" if classifies else "regression",
        },
        "data": {"source": DATA},
        "metric": "live:metric" if callable(metric) else metric or _usual_metric(arrays["validation"], classifies),
        **choices,
    }
    if student is not None:
        document["model"]["student"] = "live:student"
        document["model"]["student_parameters"] = {key: list(values) for key, values in student_parameters.items()}
    write_text(folder / PARAMS, yaml.safe_dump(document, sort_keys=False))
    return with_absolute_paths(load_settings(folder / PARAMS, dict(overrides)), folder)


def _columns(splits: Mapping[str, Split]) -> Arrays:
    columns = {f"{split}/{key}": values for split, found in splits.items() for key, values in found.inputs.items()}
    columns |= {f"{split}/target": found.targets for split, found in splits.items() if found.targets is not None}
    return columns


def _on_cpu(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).cpu().eval()
    except (RuntimeError, TypeError) as error:
        raise BundleError(
            "The module cannot be copied.", where=type(module).__name__, value=str(error).splitlines()[0]
        ) from error


def _pickle(name: str, value: Any, file: Path) -> None:
    try:
        with atomic_file(file) as temporary:
            temporary.write_bytes(cloudpickle.dumps(value))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise BundleError(
            f"The {name} cannot be pickled, so no other process can have it.",
            where=type(value).__name__,
            value=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            fix="Take open files, locks and loaders out of it; or write a project with a factory: `leanloop init`.",
        ) from error


@contextmanager
def _by_value() -> Iterator[None]:
    """Pickle by value what the owner's own modules define, too: a bundle is loaded where these are not."""
    registered = [module for module in list(sys.modules.values()) if _is_owners(module)]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _is_owners(module: object) -> TypeGuard[ModuleType]:
    """Whether a module is neither Python's, nor installed, nor ours, nor the notebook itself."""
    file = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or file is None:
        return False
    if module.__name__.partition(".")[0] in {"leanloop", "__main__"} or module.__name__ in _registered():
        return False
    path = Path(file)
    return not _INSTALLED.intersection(path.parts) and not path.is_relative_to(sysconfig.get_path("stdlib"))


def _registered() -> set[str]:
    return cloudpickle.list_registry_pickle_by_value()  # type: ignore[no-any-return]


def _output_names(module: nn.Module, inputs: Arrays) -> list[str]:
    """``output``, or ``output_0``, ``output_1`` and so on for a module that returns several."""
    with torch.inference_mode():
        try:
            found = module(*(torch.from_numpy(values[:2]) for values in inputs.values()))
        except Exception as error:
            raise BundleError(
                "The module fails on the first samples of the validation loader.",
                where=f"inputs {[(name, values.shape[1:], str(values.dtype)) for name, values in inputs.items()]}",
                value=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            ) from error
    if isinstance(found, torch.Tensor):
        return ["output"]
    if isinstance(found, tuple | list):
        return [f"output_{number}" for number in range(len(found))]
    raise BundleError(
        "The module must return a tensor or several.",
        value=type(found).__name__,
        fix="Wrap it in a module that returns the tensors to keep.",
    )


def _classifies(split: Split) -> bool:
    return split.targets is not None and split.targets.dtype.kind in "iu" and split.targets.ndim == 1


def _usual_metric(split: Split, classifies: bool) -> str:
    if split.targets is None:
        return "agreement"
    return "accuracy" if classifies else "rmse"
