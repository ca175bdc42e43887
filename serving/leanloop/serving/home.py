"""Where Triton is installed: an environment of its own, found and checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from leanloop.core.errors import ServingError

_HOME_VARIABLE = "LEANLOOP_TRITON_HOME"

_PROBE = """
import ctypes, json, os, sys, sysconfig

version = sysconfig.get_python_version()
library = f"libpython{version}.so.1.0"
folders = [os.path.join(sys.prefix, "lib"), sysconfig.get_config_var("LIBDIR")]

def loads(name):
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False

print(json.dumps({
    "packages": sysconfig.get_path("purelib"),
    "version": version,
    "library": library,
    "library_loads": any(loads(name) for name in [*(os.path.join(f, library) for f in folders), library]),
    "library_folders": folders,
}))
"""


@dataclass(frozen=True)
class TritonHome:
    """An environment that holds Triton and the runtimes that its models use.

    Attributes:
        folder: Root of the virtual environment.
        binary: The server.
        backend: Folder of the Python backend.
        stub: The process that runs a model's code, built for this environment's Python version.
        libraries: Folders for ``LD_LIBRARY_PATH``.
        packages: Its site-packages, for ``PYTHONPATH``.
    """

    folder: Path
    binary: Path
    backend: Path
    stub: Path
    libraries: tuple[Path, ...]
    packages: Path

    @classmethod
    def find(cls, configured: str = "") -> Self:
        """Find the environment: the setting, else ``LEANLOOP_TRITON_HOME``, else ``.tools/triton`` here or above.

        Raises:
            ServingError: There is none, or it lacks a part.
        """
        folder = _home_folder(configured)
        python = folder / "bin" / "python"
        try:
            probe = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            raise ServingError(
                "Triton's environment has no working Python.",
                where=str(python),
                value=error,
                fix="Run `make setup`, which makes it again.",
            ) from error
        found = json.loads(probe.stdout)
        packages = Path(found["packages"])
        server = packages / "pytriton" / "tritonserver"
        home = cls(
            folder=folder,
            binary=server / "bin" / "tritonserver",
            backend=server / "backends" / "python",
            stub=server / "python_backend_stubs" / found["version"] / "triton_python_backend_stub",
            libraries=(packages / "nvidia_pytriton.libs", *map(Path, found["library_folders"])),
            packages=packages,
        )
        for part in (home.binary, home.backend, home.stub):
            if not part.exists():
                raise ServingError(
                    "Triton's environment lacks a part.",
                    where=str(part),
                    value=f"Python {found['version']}",
                    fix="Run `make setup` with Python 3.11 or 3.12.",
                )
        if not found["library_loads"]:
            raise ServingError(
                "Triton's model processes need Python as a shared library.",
                where=str(folder),
                value=found["library"],
                fix=f"Run `make setup`, or install it (Debian, Ubuntu: libpython{found['version']}).",
            )
        return home

    def write_backends(self, folder: Path) -> None:
        """Lay out a backend folder of links: the Python backend and the stub of the right Python version."""
        python = folder / "python"
        shutil.rmtree(python, ignore_errors=True)
        python.mkdir(parents=True)
        for part in (
            self.backend / "libtriton_python.so",
            self.backend / "triton_python_backend_utils.py",
            self.stub,
        ):
            (python / part.name).symlink_to(part)

    def environment(self) -> dict[str, str]:
        """Environment variables of the server and its stubs; nothing else of ours leaks in."""
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": ":".join(map(str, self.libraries)),
            "PYTHONPATH": str(self.packages),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def _home_folder(configured: str) -> Path:
    named = configured or os.environ.get(_HOME_VARIABLE, "")
    if named:
        folder = Path(named).expanduser().absolute()
        if folder.is_dir():
            return folder
        raise ServingError(
            "Triton's environment is not where the settings say.",
            where="serving.triton_home" if configured else _HOME_VARIABLE,
            value=folder,
            fix="Correct the path, or run `make setup` and leave it out.",
        )
    here = Path.cwd()
    for parent in (here, *here.parents):
        if (parent / ".tools" / "triton" / "bin" / "python").exists():
            return parent / ".tools" / "triton"
    raise ServingError(
        "Triton is not installed.",
        where=f"{here / '.tools' / 'triton'} and the folders above",
        fix=f"Run `make setup`, or name its environment in serving.triton_home or {_HOME_VARIABLE}.",
    )
