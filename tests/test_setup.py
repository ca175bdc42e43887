"""The set-up script: how it recognises finished work, and that a failure leaves none."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "tools" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    return script


setup = load_script()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder that the script works in, instead of ours."""
    for name, folder in {
        "ROOT": ".",
        "TOOLS": ".tools",
        "DEBIAN": ".tools/debian",
        "ARCHIVES": ".tools/packages",
        "VENV": ".venv",
        "TRITON": ".tools/triton",
    }.items():
        monkeypatch.setattr(setup, name, tmp_path / folder)
    setup.own_lists.cache_clear()
    return tmp_path


@pytest.fixture
def commands(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, empty at first."""
    folder = project / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add_command(folder: Path, name: str, script: str) -> None:
    command = folder / name
    command.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n", encoding="utf-8")
    command.chmod(0o755)


def make_package(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A real ``.deb`` with these files."""
    tree = folder / "tree"
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: test\n",
        encoding="utf-8",
    )
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(content, encoding="utf-8")
    archive = folder / f"{name}_1_all.deb"
    subprocess.run(
        ["/usr/bin/dpkg-deb", "--build", tree, archive], env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True
    )
    return archive


PROGRAM = setup.Package(("prometheus",), "usr/bin/prometheus", programs=("prometheus",))
needs_dpkg = pytest.mark.skipif(not Path("/usr/bin/dpkg-deb").exists(), reason="dpkg-deb is Debian's")


def test_digest_changes_with_any_input(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("torch==2.13.0", encoding="utf-8")
    before = setup.digest(file, "3.11")
    assert before == setup.digest(file, "3.11")
    assert before != setup.digest(file, "3.12")
    assert setup.digest("ab", "c") != setup.digest("a", "bc")
    file.write_text("torch==2.13.1", encoding="utf-8")
    assert before != setup.digest(file, "3.11")


def test_a_stamp_stands_for_finished_work_alone(project: Path) -> None:
    stamp = project / "setup.stamp"
    with setup.stamped(stamp, "key", "work"):
        pass
    assert setup.is_current(stamp, "key")
    assert not setup.is_current(stamp, "another key")

    with pytest.raises(setup.SetupError), setup.stamped(stamp, "key", "work"):
        raise setup.SetupError("half done")
    assert not setup.is_current(stamp, "key")


def test_an_environment_that_moved_or_has_another_python_is_not_reused(tmp_path: Path) -> None:
    written = f"home = /usr/bin\nversion = 3.11.7\ncommand = /usr/bin/python3 -m venv --clear {tmp_path}/.venv\n"
    assert setup.is_environment_of(written, tmp_path / ".venv", "3.11.7")
    assert not setup.is_environment_of(written, tmp_path / "moved" / ".venv", "3.11.7")
    assert not setup.is_environment_of(written, tmp_path / ".venv", "3.12.1")
    assert not setup.is_environment_of("", tmp_path / ".venv", "3.11.7")


def test_triton_has_the_runtimes_that_optimise() -> None:
    main, triton = setup.pins(ROOT / "constraints.txt"), setup.pins(ROOT / "constraints-triton.txt")
    assert main["torch"] == "2.13.0"
    assert triton["nvidia-pytriton"] == "0.7.0"
    assert triton["numpy"].startswith("1.")
    for runtime in ("onnxruntime", "openvino"):
        assert triton[runtime] == main[runtime]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-triton.txt"])
def test_every_constraint_is_one_plain_exact_version(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert len(pinned) > 20
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!]+", line) for line in pinned)


def test_a_program_on_the_path_is_used_instead(project: Path, commands: Path) -> None:
    add_command(commands, "prometheus", "exit 0")
    setup.fetch(PROGRAM)
    assert not (project / ".tools").exists()


def test_an_installed_data_set_is_linked(project: Path, commands: Path) -> None:
    installed = project / "system"
    installed.mkdir()
    package = setup.Package(("dataset-x",), "usr/share/datasets/x", system=str(installed))
    setup.fetch(package)
    assert (project / ".tools/debian/usr/share/datasets/x").resolve() == installed
    setup.fetch(package)


def test_without_apt_it_says_what_to_bring_and_where(project: Path, commands: Path) -> None:
    with pytest.raises(setup.SetupError, match=r"prometheus: .*no apt-get.*\.tools/packages"):
        setup.fetch(PROGRAM)


@needs_dpkg
def test_a_package_that_was_brought_is_unpacked(project: Path, commands: Path) -> None:
    archives = project / ".tools" / "packages"
    archives.mkdir(parents=True)
    make_package(project, "prometheus", {"usr/bin/prometheus": "server", "usr/bin/promtool": "tool"}).rename(
        archives / "prometheus_1_all.deb"
    )
    add_command(commands, "dpkg", 'exec /usr/bin/dpkg "$@"')
    setup.fetch(PROGRAM)
    unpacked = project / ".tools/debian/usr/bin"
    assert {file.name: file.read_text(encoding="utf-8") for file in unpacked.iterdir()} == {
        "prometheus": "server",
        "promtool": "tool",
    }


@needs_dpkg
def test_a_program_finds_its_data_where_they_were_unpacked(project: Path, commands: Path) -> None:
    archives = project / ".tools" / "packages"
    archives.mkdir(parents=True)
    data = "usr/share/prometheus/alertmanager"
    program = f"#!/bin/sh\ncat /{data}/default.tmpl\n"
    files = {"usr/bin/prometheus-alertmanager": program, f"{data}/default.tmpl": "template"}
    make_package(project, "prometheus-alertmanager", files).rename(archives / "prometheus-alertmanager_1_all.deb")
    add_command(commands, "dpkg", 'exec /usr/bin/dpkg "$@"')
    (package,) = (package for package in setup.PACKAGES if package.data)
    setup.fetch(package)
    unpacked = project / ".tools/debian/usr/bin/prometheus-alertmanager"
    assert unpacked.stat().st_size == len(program)
    said = subprocess.run(
        ["/bin/sh", unpacked], cwd=project / ".tools/debian/usr/share/prometheus", env={"PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "template"

    # One that was unpacked without them is unpacked again.
    (project / ".tools/debian" / data / "default.tmpl").unlink()
    (project / ".tools/debian" / data).rmdir()
    setup.fetch(package)
    assert (project / ".tools/debian" / data / "default.tmpl").exists()


@needs_dpkg
def test_a_broken_package_leaves_nothing_unpacked(project: Path, commands: Path) -> None:
    archives = project / ".tools" / "packages"
    archives.mkdir(parents=True)
    (archives / "prometheus_1_all.deb").write_bytes(b"cut off")
    add_command(commands, "dpkg", 'exec /usr/bin/dpkg "$@"')
    with pytest.raises(setup.SetupError, match=r"unpack .*prometheus_1_all\.deb failed"):
        setup.fetch(PROGRAM)
    assert not (project / ".tools/debian/usr/bin/prometheus").exists()


@needs_dpkg
def test_lists_of_our_own_serve_where_the_system_has_none(project: Path, commands: Path) -> None:
    archive = make_package(project, "prometheus", {"usr/bin/prometheus": "server"})
    add_command(commands, "dpkg", 'exec /usr/bin/dpkg "$@"')
    add_command(
        commands,
        "apt-get",
        f'echo "$@" >> {project}/calls\n'
        f'case "$*" in *Dir::State::Lists*download*) cp {archive} . ;; *update*) ;; *) exit 100 ;; esac',
    )
    setup.fetch(PROGRAM)
    assert (project / ".tools/debian/usr/bin/prometheus").exists()
    plain, update, download = (project / "calls").read_text(encoding="utf-8").splitlines()
    assert plain == "download prometheus"
    assert update.endswith("update")
    assert f"Dir::State::Lists={project}/.tools/apt/lists" in download


def test_a_command_that_fails_is_told_with_the_tail_of_its_output() -> None:
    with pytest.raises(setup.SetupError, match=r"(?s)try it failed \(exit status 3\).*the reason"):
        setup.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], "try it")


def test_a_finished_set_up_runs_no_command(
    project: Path, commands: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    for name in ("pyproject.toml", "constraints.txt", "constraints-triton.txt"):
        (project / name).write_text("torch==2.13.0\n", encoding="utf-8")
    for package in setup.PACKAGES:
        make(project / ".tools" / "debian" / package.proof)
        make(project / ".tools" / "debian" / package.data)
    monkeypatch.setattr(setup, "create_environment", make)
    monkeypatch.setattr(setup, "pip", lambda *arguments: None)
    monkeypatch.setattr(setup, "link_libpython", lambda: None)
    monkeypatch.setattr(setup, "check_triton", lambda: None)
    assert setup.main() == 0
    capsys.readouterr()

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"ran {arguments}")

    for name in ("create_environment", "pip", "run"):
        monkeypatch.setattr(setup, name, refuse)
    assert setup.main() == 0
    assert capsys.readouterr().out == "setup: everything is in place\n"


def test_changed_constraints_are_installed_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[tuple[object, ...]] = []
    (project / "pyproject.toml").write_text("", encoding="utf-8")
    (project / ".venv").mkdir()
    monkeypatch.setattr(setup, "create_environment", lambda folder: None)
    monkeypatch.setattr(setup, "pip", lambda *arguments: installed.append(arguments))
    for version in ("2.13.0", "2.13.0", "2.13.1"):
        (project / "constraints.txt").write_text(f"torch=={version}\n", encoding="utf-8")
        setup.make_venv()
    assert [arguments[-1] for arguments in installed if "-e" not in arguments] == ["torch==2.13.0", "torch==2.13.1"]


def test_all_failures_are_told_and_the_other_parts_are_still_made(
    project: Path, commands: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(setup, "make_venv", lambda: made.append("venv"))
    monkeypatch.setattr(setup, "make_triton", lambda: made.append("triton"))
    monkeypatch.setattr(setup, "PACKAGES", (PROGRAM, setup.Package(("other",), "usr/share/other")))
    assert setup.main() == 1
    assert made == ["venv", "triton"]
    told = capsys.readouterr().err
    assert "MISSING: prometheus:" in told
    assert "MISSING: other:" in told
