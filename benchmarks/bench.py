"""``make bench``: the figures that leanloop promises, each with its bar, from one machine in one go.

What is measured, and by what:

* the line itself, run by the ``leanloop`` command: the Fashion-MNIST CNN for batch 1 and for batch 32, and digits
* original, winners and plain INT8 side by side, by the product's own benchmark step, in alternating blocks
* the same winners once more by a plain loop (``independent.py``) and, for IR, OpenVINO's benchmark_app
* version 1 against the winner through one Triton, by the product's deploy step

Every stage's raw result is kept in ``benchmarks/out`` as JSON; an interrupted bench goes on where it was, and
``make clean`` (or another machine, or other code) makes it begin anew. Exit status 1 tells that a bar was missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from leanloop.core.files import digest_json, write_json
from leanloop.core.hardware import fingerprint, hardware_id
from leanloop.core.names import code_version

sys.path.insert(0, str(Path(__file__).parent))
import figures
import independent
import side_by_side

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/out"
PORTS = {"http_url": "127.0.0.1:18000", "grpc_url": "127.0.0.1:18001", "metrics_url": "127.0.0.1:18002"}


def main() -> int:
    refuse_beside_a_stack()
    folder = OUT / digest_json([code_version(), hardware_id()])[:12]
    print(f"Results in {folder.relative_to(ROOT)}", flush=True)
    write_json(folder / "hardware.json", fingerprint() | {"code_version": code_version()})
    batch_1 = stage(folder, "line-batch-1", lambda: run_line(folder / "batch-1", "params.yaml", 1))
    batch_32 = stage(folder, "line-batch-32", lambda: run_line(folder / "batch-32", "params.yaml", 32))
    digits = stage(folder, "line-digits", lambda: run_line(folder / "digits", "examples/digits/params.yaml", None))
    variants = stage(folder, "side-by-side", lambda: side_by_side.measure(batch_1, batch_32, folder / "side-by-side"))
    again = stage(folder, "independent", lambda: independent.measure(variants, folder / "side-by-side"))
    cli = stage(folder, "help", time_help)
    lines = figures.judge(batch_1, batch_32, digits, variants, again, cli)
    for line in lines:
        print(line)
    write_json(folder / "figures.json", [vars(line) for line in lines])
    return 0 if all(line.ok for line in lines) else 1


def refuse_beside_a_stack() -> None:
    """A server that computes beside us would be measured with us."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "tritonserver":
            sys.exit(f"A Triton is running (process {process.pid}). End it with `leanloop serve down`, then bench.")


def stage(folder: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A stage's raw result: measured now, or kept from before an interruption."""
    path = folder / f"{name}.json"
    if path.exists():
        print(f"  {name}: kept", flush=True)
    else:
        print(f"  {name} ...", flush=True)
        started = time.monotonic()
        write_json(path, measure())
        print(f"  {name}: {time.monotonic() - started:.0f} s", flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def timed(measure: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The same, with the seconds that it took."""

    def run() -> dict[str, Any]:
        started = time.monotonic()
        return {**measure(), "bench_seconds": time.monotonic() - started}

    return run


def run_line(workspace: Path, params: str, batch_size: int | None, ports: Mapping[str, str] = PORTS) -> dict[str, Any]:
    """One whole ``leanloop run`` in a workspace of its own, and what it released."""
    from leanloop.core.contracts import Verdict
    from leanloop.pipelines.launch import Run, orchestration_share

    overrides = {"workspace": str(workspace)} | {f"serving.{key}": url for key, url in ports.items()}
    if batch_size is not None:
        overrides["goal.batch_size"] = str(batch_size)
    options = ["--params", str(ROOT / params)]
    for key, value in overrides.items():
        options += ["--set", f"{key}={value}"]
    leanloop = [sys.executable, "-m", "leanloop.pipelines"]
    started = time.monotonic()
    try:
        subprocess.run([*leanloop, "run", *options], check=True, cwd=ROOT, stdout=sys.stderr)
        seconds = time.monotonic() - started
    finally:
        subprocess.run([*leanloop, "serve", "down", *options], check=True, cwd=ROOT, stdout=sys.stderr)
    run = Run(max((workspace / "runs").iterdir(), key=lambda path: path.stat().st_mtime))
    release, verdict = run.release(), Verdict.load(run.step_folder("select"))
    if verdict.winner is None:
        sys.exit(f"MISS  {params} at batch {verdict.batch_size} has no winner: {verdict.reason}")
    return {
        "seconds": seconds,
        "orchestration_share": orchestration_share(run)[1],
        "release": release.model_dump(mode="json"),
        "verdict": verdict.model_dump(mode="json"),
        "bundle": str(run.step_folder("bundle")),
        "artifacts": str(run.step_folder("convert")),
        "settings": yaml.safe_load(json.loads(run.request.read_text())["settings"]),
    }


def time_help(runs: int = 9) -> dict[str, Any]:
    """Wall-clock seconds of ``leanloop --help``."""
    command = [str(Path(sys.executable).with_name("leanloop")), "--help"]
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        seconds.append(time.perf_counter() - started)
    return {"seconds": sorted(seconds)}


if __name__ == "__main__":
    sys.exit(main())
