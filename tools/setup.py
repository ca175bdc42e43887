#!/usr/bin/env python3
"""Make everything that leanloop needs, inside this folder: `make setup`.

Three things, each made once and then recognised by a stamp, the digest of what it was made from:

1. ``.tools/debian``  Prometheus, Alertmanager and the Fashion-MNIST images, from Debian or Ubuntu packages.
   The packages are downloaded and unpacked; nothing is installed into the system and nothing is started.
2. ``.venv``          leanloop's environment, at the versions of ``constraints.txt``.
3. ``.tools/triton``  Triton's own environment, at the versions of ``constraints-triton.txt``.

It needs Python 3.11 or 3.12 and nothing but its standard library. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import ctypes.util
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
DEBIAN = TOOLS / "debian"
ARCHIVES = TOOLS / "packages"
VENV = ROOT / ".venv"
TRITON = TOOLS / "triton"
PYTHONS = ((3, 11), (3, 12))
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class SetupError(Exception):
    """One part cannot be made; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """One Debian package, and how to tell that it is already here.

    Attributes:
        names: What Debian and Ubuntu call it, newest name first.
        proof: A path under ``.tools/debian`` that the unpacked package has.
        programs: Names of its program on the PATH; one found there is used instead.
        system: Its folder on a machine where the package is installed.
        data: Folder of files that the program looks for under the root; see `relocate`.
    """

    names: tuple[str, ...]
    proof: str
    programs: tuple[str, ...] = ()
    system: str = ""
    data: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.names[-1]


PACKAGES = (
    Package(("prometheus",), "usr/bin/prometheus", programs=("prometheus",)),
    Package(
        ("prometheus-alertmanager",),
        "usr/bin/prometheus-alertmanager",
        programs=("prometheus-alertmanager", "alertmanager"),
        data="usr/share/prometheus/alertmanager",
    ),
    Package(
        ("dataset-fashion-mnist",),
        "usr/share/datasets/fashion-mnist",
        system="/usr/share/datasets/fashion-mnist",
    ),
)


def main() -> int:
    """Make all parts; say at the end which ones are missing. Exit status 1 if any is."""
    if sys.version_info[:2] not in PYTHONS:
        print(f"leanloop needs Python 3.11 or 3.12; this is {PYTHON}. Name another: make setup PYTHON=python3.12")
        return 1
    parts: list[Callable[[], None]] = [functools.partial(fetch, package) for package in PACKAGES]
    failures = []
    for part in (*parts, make_venv, make_triton):
        try:
            part()
        except SetupError as error:
            failures.append(error)
    for failure in failures:
        print(f"\nMISSING: {failure}", file=sys.stderr)
    if not failures:
        say("everything is in place")
    return 1 if failures else 0


def say(line: str) -> None:
    """One line of progress."""
    print(f"setup: {line}", flush=True)


# --- stamps ---------------------------------------------------------------------------------------------------------


def digest(*inputs: str | Path) -> str:
    """SHA-256 over texts and the contents of files: equal only if all of them are."""
    total = hashlib.sha256()
    for item in inputs:
        content = item.read_bytes() if isinstance(item, Path) else item.encode()
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


def is_current(stamp: Path, key: str) -> bool:
    """Whether what the stamp stands for was made, whole, from the inputs with this digest."""
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == key


@contextmanager
def stamped(stamp: Path, key: str, task: str) -> Iterator[None]:
    """Take the stamp away while the block runs; set it when the block ends without error."""
    say(f"{task} ...")
    started = time.monotonic()
    stamp.unlink(missing_ok=True)
    yield
    unfinished = stamp.with_name(f"{stamp.name}.unfinished")
    unfinished.write_text(f"{key}\n", encoding="utf-8")
    unfinished.replace(stamp)
    say(f"{task}: done in {time.monotonic() - started:.0f} s")


# --- Debian packages ------------------------------------------------------------------------------------------------


def fetch(package: Package) -> None:
    """See to it that a program or data set of Debian's is at hand: from the system, or unpacked here."""
    target = DEBIAN / package.proof
    whole = target.exists() and (DEBIAN / package.data).exists()
    if any(shutil.which(program) for program in package.programs) or whole:
        return
    if package.system and Path(package.system).is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(package.system)
        say(f"{package.name}: linked to {package.system}")
        return
    say(f"{package.name}: downloading its package and unpacking it under {DEBIAN.relative_to(ROOT)} ...")
    unpack(archive_of(package), target, package.proof, package.data)


def unpack(archive: Path, target: Path, proof: str, data: str = "") -> None:
    """Unpack one part of a package, and its data: whole at ``target``, or not there at all."""
    if shutil.which("dpkg") is None:
        raise SetupError(f"dpkg, to unpack {archive}. Unpack it yourself, so that {target} exists.")
    scratch = TOOLS / "unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    run(["dpkg", "-x", archive, scratch], f"unpack {archive}")
    unpacked = scratch / proof
    if not unpacked.exists():
        raise SetupError(f"{proof} in {archive}: the package has changed. Its files: dpkg -c {archive}")
    for sibling in unpacked.parent.iterdir():
        place = target.parent / sibling.name
        if sibling.name != unpacked.name and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            sibling.rename(place)
    target.parent.mkdir(parents=True, exist_ok=True)
    if data:
        relocate(unpacked, data)
    unpacked.rename(target)
    if data:
        shutil.rmtree(DEBIAN / data, ignore_errors=True)
        (DEBIAN / data).parent.mkdir(parents=True, exist_ok=True)
        (scratch / data).rename(DEBIAN / data)
    shutil.rmtree(scratch)


def relocate(program: Path, data: str) -> None:
    """Let a program that is not installed find its files: it must run in the folder that holds ``data``'s last part.

    Debian's Alertmanager has the folder of its templates written into it, and no option for another. A relative name of
    the same length takes its place, filled up in front with ``./``.
    """
    absolute, name = f"/{data}".encode(), Path(data).name.encode()
    dots, odd = divmod(len(absolute) - len(name), 2)
    program.write_bytes(program.read_bytes().replace(absolute, b"./" * dots + b"/" * odd + name))


def archive_of(package: Package) -> Path:
    """The package's ``.deb`` in ``.tools/packages``: brought by the owner, or downloaded by apt."""
    for name in package.names:
        if found := find_archive(name, ARCHIVES):
            return found
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"{package.name}: this machine has no apt-get. Put its .deb into {ARCHIVES}, "
            f"or unpack it elsewhere and copy its files so that {DEBIAN / package.proof} exists."
        )
    downloads = TOOLS / "apt" / "downloads"
    for options in apt_options():
        for name in package.names:
            shutil.rmtree(downloads, ignore_errors=True)
            downloads.mkdir(parents=True)
            subprocess.run(["apt-get", *options, "download", name], cwd=downloads, capture_output=True, check=False)
            if found := find_archive(name, downloads):
                ARCHIVES.mkdir(exist_ok=True)
                return found.replace(ARCHIVES / found.name)
    raise SetupError(
        f"{package.name}: apt-get cannot download it. Put its .deb into {ARCHIVES} "
        f"(`apt-get download {package.name}`, perhaps after `apt-get update`), then run `make setup` again."
    )


def apt_options() -> Iterator[tuple[str, ...]]:
    """Options to try apt with: first as it is; then with package lists of our own, made on first use.

    A fresh container has no lists, and the system's are not ours to change.
    """
    yield ()
    yield own_lists()


@functools.cache
def own_lists() -> tuple[str, ...]:
    """Fetch package lists into ``.tools/apt``; return the options that make apt use them."""
    say("apt has no package lists that know it: fetching lists into .tools/apt ...")
    lists, cache = TOOLS / "apt" / "lists", TOOLS / "apt" / "cache"
    for folder in (lists / "partial", cache / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    # apt's own download user may not reach into this folder.
    settings = (f"Dir::State::Lists={lists}", f"Dir::Cache={cache}", "APT::Sandbox::User=root")
    options = tuple(word for setting in settings for word in ("-o", setting))
    run(["apt-get", *options, "update"], "fetch package lists with apt-get")
    return options


def find_archive(name: str, folder: Path) -> Path | None:
    """The newest ``<name>_<version>_<architecture>.deb`` in a folder."""
    return max(folder.glob(f"{name}_*.deb"), key=lambda file: file.stat().st_mtime, default=None)


# --- Python environments --------------------------------------------------------------------------------------------


def make_venv() -> None:
    """The project's own environment, with leanloop installed in place."""
    constraints = ROOT / "constraints.txt"
    stamp = VENV / "setup.stamp"
    key = digest(ROOT / "pyproject.toml", constraints, sys.version, str(ROOT))
    if is_current(stamp, key):
        return
    create_environment(VENV)
    with stamped(stamp, key, "Python packages into .venv (some minutes the first time)"):
        # torch alone first: its one exact version then stands before pip weighs anything else.
        pip(VENV, "install", "-c", constraints, f"torch=={pins(constraints)['torch']}")
        pip(VENV, "install", "-c", constraints, "-e", f"{ROOT}[all,dev]")


def make_triton() -> None:
    """Triton's environment: the server, and the runtimes at the versions that optimised."""
    constraints = ROOT / "constraints-triton.txt"
    stamp = TRITON / "setup.stamp"
    key = digest(constraints, sys.version, str(ROOT))
    if is_current(stamp, key):
        return
    if platform.machine() != "x86_64":
        raise SetupError(f"Triton: its wheel is built for x86_64 alone, and this machine is {platform.machine()}.")
    create_environment(TRITON)
    with stamped(stamp, key, "Triton into .tools/triton"):
        packages = ("nvidia-pytriton", "numpy", "onnxruntime", "openvino")
        pip(TRITON, "install", "-c", constraints, *packages)
        link_libpython()
        check_triton()


def create_environment(folder: Path) -> None:
    """An environment of this Python at ``folder``, with a recent pip; one of another Python is replaced."""
    configuration = folder / "pyvenv.cfg"
    written = configuration.read_text(encoding="utf-8") if configuration.is_file() else ""
    has_pip = (folder / "bin" / "pip").exists()  # the last thing that venv makes
    if not (has_pip and is_environment_of(written, folder, platform.python_version())):
        say(f"Python environment {folder.relative_to(ROOT)} ...")
        if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True).returncode:
            raise SetupError(f"{folder}: this Python cannot make environments. Run: apt install python{PYTHON}-venv")
        run([sys.executable, "-m", "venv", "--clear", folder], f"make the environment {folder}")
    pip(folder, "install", "--upgrade", "pip>=23")


def is_environment_of(configuration: str, folder: Path, version: str) -> bool:
    """Whether a ``pyvenv.cfg`` was written for this very folder and Python version (a moved one does not work)."""
    values = dict(line.split(" = ", 1) for line in configuration.splitlines() if " = " in line)
    return values.get("version") == version and values.get("command", "").endswith(f" {folder}")


def pins(constraints: Path) -> dict[str, str]:
    """The versions that a constraints file pins, by package name in lower case."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower(): version.strip() for name, version in pairs}


def link_libpython() -> None:
    """Give Triton's Python stub the shared library of this Python, which Debian keeps in a package of its own."""
    link = TRITON / "lib" / f"libpython{PYTHON}.so.1.0"
    link.unlink(missing_ok=True)
    beside = Path(sys.base_prefix) / "lib" / link.name
    multiarch = f"usr/lib/{sysconfig.get_config_var('MULTIARCH') or 'x86_64-linux-gnu'}"
    if beside.is_file():
        link.symlink_to(beside)
        return
    if ctypes.util.find_library(f"python{PYTHON}"):
        return
    package = Package((f"libpython{PYTHON}t64", f"libpython{PYTHON}"), f"{multiarch}/{link.name}")
    fetch(package)
    link.symlink_to(DEBIAN / package.proof)


def check_triton() -> None:
    """Start the server and the stub far enough to see that every shared library is found."""
    packages = TRITON / "lib" / f"python{PYTHON}" / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{TRITON / 'lib'}"
    cannot_load = 127
    for program in (
        server / "bin" / "tritonserver",
        server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub",
    ):
        shown = subprocess.run(
            [program, "--help"],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if shown.returncode == cannot_load or shown.returncode < 0:
            raise SetupError(f"a library that Triton needs. {shown.stderr.strip()}")


def pip(environment: Path, *arguments: str | Path) -> None:
    """Run an environment's pip, quietly."""
    command = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"]
    run(command, f"pip {shlex.join(map(str, arguments))}")


def run(command: list[str | Path], task: str) -> None:
    """Run a command to its end; tell the tail of what it printed if it fails."""
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if finished.returncode:
        tail = "\n    ".join(finished.stdout.strip().splitlines()[-15:])
        raise SetupError(f"{task} failed (exit status {finished.returncode}):\n    {tail}")


if __name__ == "__main__":
    sys.exit(main())
