"""KFP's local runner: what we rely on, and the traps that we steer around (they would show if upstream mended them)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

PREAMBLE = """
from functools import partial
from typing import List, NamedTuple
from kfp import dsl, local
component = partial(dsl.component, base_image="python:3.11", install_kfp_package=False)
local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root")
"""


def run_script(folder: Path, body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(dedent(PREAMBLE) + dedent(body))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_loop_over_integers_with_collected_artifacts(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        @component
        def work(worker: int, out: dsl.Output[dsl.Model]):
            assert isinstance(worker, int)
            from pathlib import Path
            Path(out.path).mkdir(parents=True)
            (Path(out.path) / "n").write_text(str(worker))

        @component
        def gather(parts: dsl.Input[List[dsl.Model]], out: dsl.Output[dsl.Artifact]):
            from pathlib import Path
            Path(out.path).write_text(",".join((Path(part.path) / "n").read_text() for part in parts))

        @dsl.pipeline(name="loop")
        def pipeline(workers: List[int]) -> dsl.Artifact:
            with dsl.ParallelFor(workers) as worker:
                part = work(worker=worker)
            return gather(parts=dsl.Collected(part.output)).output

        print("RESULT", open(pipeline(workers=[0, 1, 2]).outputs["Output"].path).read())
        """,
    )
    assert "RESULT 0,1,2" in done.stdout, done.stdout + done.stderr


def test_trap_a_condition_on_a_named_output_is_skipped_and_reported_as_success(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        @component
        def decide() -> NamedTuple("Out", [("go", bool)]):
            return (True,)

        @component
        def act():
            open("acted", "w").close()

        @dsl.pipeline(name="trap")
        def pipeline():
            with dsl.If(decide().outputs["go"] == True):
                act()

        pipeline()
        """,
    )
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "acted").exists()


def test_trap_b_a_quote_in_a_compared_text_skips_the_branch(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        @component
        def name() -> str:
            return "it's"

        @component
        def act():
            open("acted", "w").close()

        @dsl.pipeline(name="trap")
        def pipeline():
            with dsl.If(name().output != "other"):
                act()

        pipeline()
        """,
    )
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "acted").exists()


def test_trap_d_a_containers_artifact_is_lost(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        @dsl.container_component
        def make(out: dsl.Output[dsl.Model]):
            return dsl.ContainerSpec(image="none", command=["sh", "-c"], args=["echo made > $0", out.path])

        @component
        def use(part: dsl.Input[dsl.Model]):
            print("USED", open(part.path).read())

        @dsl.pipeline(name="trap")
        def pipeline():
            use(part=make().outputs["out"])

        pipeline()
        """,
    )
    assert done.returncode != 0
    assert "USED" not in done.stdout


def test_trap_e_code_in_an_imported_module_is_not_in_the_cache_key(tmp_path: Path) -> None:
    body = """
    import os
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=os.getcwd() + "/root", enable_caching=True)

    @component
    def work(code_version: str) -> str:
        import helper
        return helper.ANSWER

    @dsl.pipeline(name="cached")
    def pipeline(code_version: str) -> str:
        return work(code_version=code_version).output

    print("RESULT", pipeline(code_version=os.environ["CODE_VERSION"]).outputs["Output"])
    """
    helper = tmp_path / "helper.py"

    def answer(code: str, version: str) -> str:
        helper.write_text(f"ANSWER = {code!r}")
        done = run_script(tmp_path, body, CODE_VERSION=version, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.rpartition("RESULT ")[2].strip()

    assert answer("first", "1") == "first"
    assert answer("second", "1") == "first"
    assert answer("second", "2") == "second"


def test_trap_j_a_folder_of_the_owner_does_not_shadow_packages_in_our_environment(tmp_path: Path) -> None:
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml/__init__.py").write_text("raise RuntimeError('shadowed')")
    body = """
    @component
    def load():
        import yaml
        yaml.safe_load("1")

    @dsl.pipeline(name="shadow")
    def pipeline():
        load()

    pipeline()
    """
    from leanloop.pipelines.launch import Run, child_environment

    environment = child_environment(Run(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    done = run_script(tmp_path / "elsewhere", "pass")
    assert done.returncode == 0, done.stderr
    script = tmp_path / "elsewhere/script.py"
    script.write_text(dedent(PREAMBLE) + dedent(body))
    safe = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert safe.returncode == 0, safe.stdout + safe.stderr
    unsafe = subprocess.run(
        [sys.executable, "-P", str(script)],
        cwd=tmp_path,
        env={key: value for key, value in environment.items() if key != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "shadowed" in unsafe.stdout


def test_our_interpreter_comes_first_on_the_path(tmp_path: Path) -> None:
    from leanloop.pipelines.launch import Run, child_environment

    found = subprocess.run(
        ["python3", "-c", "import sys; print(sys.prefix)"],
        env=child_environment(Run(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == sys.prefix


def test_a_users_workspace_folder_is_never_given_to_kfp() -> None:
    # Trap F: kfp.local deletes a given workspace_root at the end.
    import leanloop.pipelines.local as module

    assert "workspace_root" not in Path(module.__file__).read_text()
