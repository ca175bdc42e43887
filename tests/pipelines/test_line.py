"""The compiled pipelines: golden files, the traps of KFP that pass silently, and the line's agreement with dvc.yaml."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from kfp.compiler import Compiler

from leanloop.core.settings import Settings
from leanloop.kfp import components
from leanloop.pipelines.line import optimize
from leanloop.pipelines.local import PIPELINES

ROOT = Path(__file__).parents[2]
STEPS = ("bundle", "analyze", "optimize", "convert", "benchmark", "select", "deploy")
REPAIR = ("snapshot", "revise", "analyze", "remake", "convert", "benchmark", "select", "replace")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    Compiler().compile(optimize, str(path))
    return path.read_text()


@pytest.fixture(scope="module")
def spec(compiled: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(compiled)
    return document


@pytest.fixture(scope="module")
def repair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    Compiler().compile(PIPELINES["reoptimize"], str(path))
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


@pytest.mark.parametrize("name", PIPELINES)
def test_golden(name: str, tmp_path: Path) -> None:
    Compiler().compile(PIPELINES[name], str(tmp_path / "pipeline.yaml"))
    golden = (ROOT / f"deploy/pipelines/leanloop-{name}.yaml").read_text()
    fix = "a pipeline has changed: run `leanloop compile` and review the difference"
    assert (tmp_path / "pipeline.yaml").read_text() == golden, fix


def test_a_repair_has_the_steps_of_the_line_after_its_own(repair: dict[str, Any], spec: dict[str, Any]) -> None:
    names = {name for name, (_, component) in tasks_of(repair).items() if "dag" not in component}
    assert names == set(REPAIR)
    own = {"remake": "optimize", "revise": "bundle", "replace": "deploy"}
    renamed = {(own.get(a, a), own.get(b, b)) for a, b in collapsed_edges(repair) if a != "snapshot"}
    assert renamed == collapsed_edges(spec)


def test_a_repair_is_steered_by_no_condition_and_looks_at_live_traffic_each_time(repair: dict[str, Any]) -> None:
    cached = {name for name, (task, _) in tasks_of(repair).items() if task.get("cachingOptions", {}).get("enableCache")}
    assert {"snapshot", "benchmark", "replace"}.isdisjoint(cached)
    assert all("triggerPolicy" not in task for task, _ in tasks_of(repair).values())


def tasks_of(spec: dict[str, Any]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Task name -> (task, component) over the root and all loop bodies."""
    found = {}
    for dag in [spec["root"], *(component for component in spec["components"].values() if "dag" in component)]:
        for name, task in dag["dag"]["tasks"].items():
            found[name] = (task, spec["components"][task["componentRef"]["name"]])
    return found


def test_every_component_carries_its_image_and_code_version(spec: dict[str, Any]) -> None:
    for step in STEPS:
        task, component = tasks_of(spec)[step]
        assert "code_version" in task["inputs"]["parameters"]
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        assert container["image"] == "{{$.inputs.parameters['pipelinechannel--image']}}"
        assert "pip install" not in " ".join(container["command"])


def test_steps_that_touch_files_machines_or_servers_are_never_cached(spec: dict[str, Any]) -> None:
    cached = {name for name, (task, _) in tasks_of(spec).items() if task.get("cachingOptions", {}).get("enableCache")}
    assert {"bundle", "benchmark", "deploy"}.isdisjoint(cached)
    assert {"analyze", "optimize"} <= cached


def test_no_condition_and_no_loop_over_a_named_output(spec: dict[str, Any]) -> None:
    # Trap A: the local runner skips such a branch and still reports success.
    for name, (task, _) in tasks_of(spec).items():
        assert "triggerPolicy" not in task, name
        iterator = task.get("parameterIterator")
        if iterator is not None:
            assert iterator["items"]["inputParameter"].startswith("pipelinechannel--workers")


def test_every_step_is_a_python_component(compiled: str) -> None:
    # Traps B and D: a condition is evaluated as text, and what a bare container writes is lost locally.
    executors = yaml.safe_load(compiled)["deploymentSpec"]["executors"].values()
    assert all("executor_main" in " ".join(executor["container"]["command"]) for executor in executors)


def test_cached_steps_write_a_file_at_every_output(spec: dict[str, Any]) -> None:
    # Trap E: an output without a file (metrics that are only logged) is never found in the cache again.
    for step in STEPS:
        outputs = tasks_of(spec)[step][1]["outputDefinitions"]["artifacts"].values()
        schemas = {output["artifactType"]["schemaTitle"] for output in outputs}
        assert schemas <= {"system.Artifact", "system.Model"}


def test_the_runner_installs_nothing() -> None:
    # Trap I: by default every task makes a virtual environment over the network.
    import leanloop.pipelines.local as module

    calls = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call)]
    runners = [call for call in calls if getattr(call.func, "attr", "") == "SubprocessRunner"]
    assert len(runners) == 1
    assert [(word.arg, ast.literal_eval(word.value)) for word in runners[0].keywords] == [("use_venv", False)]


def test_no_pipeline_parameter_defaults_to_none() -> None:
    # Trap H: it fails locally with "Unknown value type".
    for pipeline in PIPELINES.values():
        for parameter in inspect.signature(pipeline.pipeline_func).parameters.values():
            assert parameter.default is not None


def test_no_exit_handler_around_loops(compiled: str) -> None:
    # Trap K: it works locally and fails on a cluster.
    assert "exit-handler" not in compiled


def test_components_can_be_read_by_kfp_and_by_a_container() -> None:
    # Traps H and J: annotations as objects, and a body that imports all that it uses.
    source = Path(inspect.getfile(components)).read_text()
    tree = ast.parse(source)
    assert "from __future__" not in source.split('"""', 2)[2]
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert top <= {"functools", "typing", "kfp", "kfp.dsl"}
    module_names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        used = {node.id for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Name)}
        assert used.isdisjoint(module_names), f"{function.name} uses a module constant, which dies at run time"


def test_numbers_travel_inside_a_json_string() -> None:
    # Trap G: dict and list parameters come back with floats for integers.
    for step in {*STEPS, *REPAIR, "retune"}:
        inputs = getattr(components, step).component_spec.inputs
        assert inputs["settings"].type == "String"
        assert all(spec.type not in ("Dict", "List") for spec in inputs.values() if not spec.is_artifact_list)


def collapsed_edges(spec: dict[str, Any]) -> set[tuple[str, str]]:
    """(producer, consumer) over artifacts, a loop counting as the step in it."""
    loops = {
        name: next(iter(component["dag"]["tasks"]))
        for name, (_, component) in tasks_of(spec).items()
        if "dag" in component
    }
    edges = set()
    for name, task in spec["root"]["dag"]["tasks"].items():
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            producer = source["taskOutputArtifact"]["producerTask"]
            edges.add((loops.get(producer, producer), loops.get(name, name)))
    return edges


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    found: dict[str, Any] = document["stages"]
    return found


def test_dvc_has_the_same_steps_and_edges(spec: dict[str, Any], stages: dict[str, Any]) -> None:
    # `hardware` is DVC's own: KFP does not cache the benchmark, so it needs no fingerprint to tell machines apart.
    names = {name for name, (_, component) in tasks_of(spec).items() if "dag" not in component}
    assert names == set(STEPS) == set(stages) - {"hardware"}
    producers = {
        next(iter(out)) if isinstance(out, dict) else out: name
        for name, stage in stages.items()
        for out in stage["outs"]
    }
    edges = {
        (producers[dep], name)
        for name, stage in stages.items()
        for dep in stage.get("deps", [])
        if dep in producers and producers[dep] != "hardware"
    }
    assert edges == collapsed_edges(spec)


def test_dvc_calls_the_command_of_each_step(stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        command = stage["cmd"].split()
        assert command[:2] == ["leanloop", "fingerprint" if name == "hardware" else name]


def settings_keys(model: Any, prefix: str = "") -> set[str]:
    keys = set()
    for name, field in model.model_fields.items():
        keys.add(f"{prefix}{name}")
        for part in (field.annotation, *get_args(field.annotation)):
            if hasattr(part, "model_fields"):
                keys |= settings_keys(part, f"{prefix}{name}.")
    return keys


def test_every_parameter_that_dvc_tracks_is_a_setting(stages: dict[str, Any]) -> None:
    tracked = {param for stage in stages.values() for param in stage.get("params", [])}
    assert tracked <= settings_keys(Settings)
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    for param in tracked:
        node = written
        for part in param.split("."):
            assert part in node, f"dvc.yaml tracks {param}, which params.yaml does not hold"
            node = node[part]


def test_stages_depend_on_the_code_that_they_run(stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        code = [dep for dep in stage.get("deps", []) if not dep.startswith("work/")]
        assert name == "hardware" or code
        assert all((ROOT / dep).exists() for dep in code)
