"""One thin component per step: it hands paths and settings to `leanloop.steps`, where the body is.

Settings travel as one JSON string, because KFP turns the numbers of dict and list parameters into floats. Every
component takes ``code_version``, because KFP's cache keys hold neither imported code nor an image's digest.
No ``from __future__ import annotations`` here: KFP reads the annotations themselves.
"""

from functools import partial
from typing import List

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

IMAGE = "leanloop:0.1.0"
"""Image that holds leanloop; the pipeline's parameter ``image`` replaces it."""

component = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)


@component
def bundle(settings: str, project: str, code_version: str, bundle: Output[Artifact]) -> None:
    """Pack weights, the owner's code, sample inputs and data references into one artifact.

    Args:
        settings: Settings as JSON.
        project: Folder that the settings' relative paths start from.
        code_version: Version of leanloop, for cache keys.
        bundle: bundle.json and what it names.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import bundle as step

    step.run(Settings.from_json(settings), project=Path(project), bundle=Path(bundle.path))


@component
def analyze(settings: str, code_version: str, bundle: Input[Artifact], analysis: Output[Artifact]) -> None:
    """Measure what each layer costs, where accuracy is sensitive, and what could help.

    Args:
        settings: Settings as JSON.
        code_version: Version of leanloop, for cache keys.
        bundle: Of the bundle component.
        analysis: analysis.json.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import analyze as step

    step.run(Settings.from_json(settings), bundle=Path(bundle.path), analysis=Path(analysis.path))


@component
def optimize(
    settings: str,
    worker: int,
    code_version: str,
    bundle: Input[Artifact],
    analysis: Input[Artifact],
    candidates: Output[Model],
) -> None:
    """One worker of the search; all workers share a study.

    Args:
        settings: Settings as JSON.
        worker: Number of this worker, from 0.
        code_version: Version of leanloop, for cache keys.
        bundle: Of the bundle component.
        analysis: Of the analyze component.
        candidates: candidates.json and a folder per candidate.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import optimize as step

    step.run(
        Settings.from_json(settings),
        bundle=Path(bundle.path),
        analysis=Path(analysis.path),
        candidates=Path(candidates.path),
        worker=worker,
    )


@component
def convert(
    settings: str,
    code_version: str,
    bundle: Input[Artifact],
    candidates: Input[List[Model]],
    artifacts: Output[Model],
) -> None:
    """Finish the finalists and check them against the original on real samples.

    Args:
        settings: Settings as JSON.
        code_version: Version of leanloop, for cache keys.
        bundle: Of the bundle component.
        candidates: Of all optimize workers.
        artifacts: artifacts.json and a folder per variant.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import convert as step

    step.run(
        Settings.from_json(settings),
        bundle=Path(bundle.path),
        candidates=[Path(worker.path) for worker in candidates],
        artifacts=Path(artifacts.path),
    )


@component
def benchmark(
    settings: str, code_version: str, bundle: Input[Artifact], artifacts: Input[Model], benchmark: Output[Artifact]
) -> None:
    """Measure all variants side by side.

    Args:
        settings: Settings as JSON.
        code_version: Version of leanloop, for cache keys.
        bundle: Of the bundle component.
        artifacts: Of the convert component.
        benchmark: benchmark.json and each variant's predictions.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import benchmark as step

    step.run(
        Settings.from_json(settings),
        bundle=Path(bundle.path),
        artifacts=Path(artifacts.path),
        benchmark=Path(benchmark.path),
    )


@component
def select(
    settings: str,
    code_version: str,
    bundle: Input[Artifact],
    analysis: Input[Artifact],
    artifacts: Input[Model],
    benchmark: Input[Artifact],
    verdict: Output[Artifact],
) -> None:
    """Choose the winner, or keep the original and say why.

    Args:
        settings: Settings as JSON.
        code_version: Version of leanloop, for cache keys.
        bundle: Of the bundle component.
        analysis: Of the analyze component.
        artifacts: Of the convert component.
        benchmark: Of the benchmark component.
        verdict: verdict.json and report.html.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import select as step

    step.run(
        Settings.from_json(settings),
        bundle=Path(bundle.path),
        analysis=Path(analysis.path),
        artifacts=Path(artifacts.path),
        benchmark=Path(benchmark.path),
        verdict=Path(verdict.path),
    )


@component
def deploy(
    settings: str,
    code_version: str,
    bundle: Input[Artifact],
    analysis: Input[Artifact],
    artifacts: Input[Model],
    benchmark: Input[Artifact],
    verdict: Input[Artifact],
    release: Output[Artifact],
) -> None:
    """Stage, tune, promote and measure on Triton.

    Args:
        settings: Settings as JSON.
        code_version: Version of leanloop, for cache keys.
        bundle: Of the bundle component.
        analysis: Of the analyze component.
        artifacts: Of the convert component.
        benchmark: Of the benchmark component.
        verdict: Of the select component.
        release: release.json, metrics.json and report.html.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import deploy as step

    step.run(
        Settings.from_json(settings),
        bundle=Path(bundle.path),
        analysis=Path(analysis.path),
        artifacts=Path(artifacts.path),
        benchmark=Path(benchmark.path),
        verdict=Path(verdict.path),
        release=Path(release.path),
    )


@component
def replace(
    settings: str,
    incident: str,
    code_version: str,
    snapshot: Input[Artifact],
    bundle: Input[Artifact],
    analysis: Input[Artifact],
    artifacts: Input[Model],
    benchmark: Input[Artifact],
    verdict: Input[Artifact],
    release: Output[Artifact],
) -> None:
    """Deploy beside live traffic: first the new version answers captured requests in the shadow of the one that serves.

    Args:
        settings: Settings as JSON.
        incident: Why; empty when a person asked.
        code_version: Version of leanloop, for cache keys.
        snapshot: Of the snapshot component.
        bundle: Of the revise component.
        analysis: Of the analyze component.
        artifacts: Of the convert component.
        benchmark: Of the benchmark component.
        verdict: Of the select component.
        release: release.json, metrics.json and report.html.
    """
    from pathlib import Path

    from leanloop.core.loop_contracts import DATA
    from leanloop.core.settings import Settings
    from leanloop.steps import deploy as step

    step.run(
        Settings.from_json(settings),
        bundle=Path(bundle.path),
        analysis=Path(analysis.path),
        artifacts=Path(artifacts.path),
        benchmark=Path(benchmark.path),
        verdict=Path(verdict.path),
        release=Path(release.path),
        captured=Path(snapshot.path) / DATA,
        incident=incident or None,
    )


@component
def snapshot(
    settings: str,
    release: str,
    since: float,
    code_version: str,
    champion: Output[Model],
    snapshot: Output[Artifact],
) -> None:
    """Bring the release that serves, and what it was asked lately.

    Args:
        settings: Settings as JSON.
        release: The release that serves, as JSON.
        since: Unix time of the oldest request that counts as fresh.
        code_version: Version of leanloop, for cache keys.
        champion: champion.json, its bundle and its files.
        snapshot: snapshot.json and data.npz.
    """
    from pathlib import Path

    from leanloop.core.contracts import Release
    from leanloop.core.settings import Settings
    from leanloop.steps import snapshot as step

    step.run(
        Settings.from_json(settings),
        release=Release.model_validate_json(release),
        since=since,
        champion=Path(champion.path),
        snapshot=Path(snapshot.path),
    )


@component
def revise(
    settings: str,
    aim: str,
    code_version: str,
    champion: Input[Model],
    snapshot: Input[Artifact],
    bundle: Output[Artifact],
) -> None:
    """Make a new revision of the bundle, from what was asked lately.

    Args:
        settings: Settings as JSON.
        aim: What must get better: accuracy, agreement or latency.
        code_version: Version of leanloop, for cache keys.
        champion: Of the snapshot component.
        snapshot: Of the snapshot component.
        bundle: bundle.json and what it names.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import revise as step

    step.run(
        Settings.from_json(settings),
        champion=Path(champion.path),
        snapshot=Path(snapshot.path),
        bundle=Path(bundle.path),
        aim=aim,  # type: ignore[arg-type]
    )


@component
def remake(
    settings: str,
    aim: str,
    code_version: str,
    champion: Input[Model],
    bundle: Input[Artifact],
    analysis: Input[Artifact],
    candidates: Output[Model],
) -> None:
    """Make the champion's recipe again, or search where that does not do.

    Args:
        settings: Settings as JSON.
        aim: What must get better: accuracy, agreement or latency.
        code_version: Version of leanloop, for cache keys.
        champion: Of the snapshot component.
        bundle: Of the revise component.
        analysis: Of the analyze component.
        candidates: candidates.json, a folder per candidate, and the champion.
    """
    from pathlib import Path

    from leanloop.core.settings import Settings
    from leanloop.steps import remake as step

    step.run(
        Settings.from_json(settings),
        champion=Path(champion.path),
        bundle=Path(bundle.path),
        analysis=Path(analysis.path),
        candidates=Path(candidates.path),
        aim=aim,  # type: ignore[arg-type]
    )


@component
def retune(
    settings: str,
    release: str,
    concurrency: int,
    incident: str,
    code_version: str,
    retuned: Output[Artifact],
) -> None:
    """Find instances and batching that serve the live load faster, without training.

    Args:
        settings: Settings as JSON.
        release: The release that serves, as JSON.
        concurrency: Requests under way at the same time.
        incident: Why; empty when a person asked.
        code_version: Version of leanloop, for cache keys.
        retuned: release.json and retuning.json.
    """
    from pathlib import Path

    from leanloop.core.contracts import Release
    from leanloop.core.settings import Settings
    from leanloop.steps import retune as step

    step.run(
        Settings.from_json(settings),
        release=Release.model_validate_json(release),
        concurrency=concurrency,
        incident=incident or None,
        retuned=Path(retuned.path),
    )
