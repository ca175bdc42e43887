"""Step 1: where the time goes, what is sensitive, and what could help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from leanloop.analyze.cost import timed
from leanloop.analyze.coverage import operator_coverage
from leanloop.analyze.graph import Graph
from leanloop.analyze.kernels import RUNTIME_WORK, node_times
from leanloop.analyze.module import module_costs, module_times, peak_activation_bytes
from leanloop.analyze.opportunities import Evidence, Kernel, opportunities
from leanloop.analyze.sensitivity import Trial, sensitivities, trials
from leanloop.benchmark import quick_latency
from leanloop.benchmark.latency import batch_of
from leanloop.bundle import Arrays, Bundle, tensors
from leanloop.convert import TARGETS, fp32_onnx, onnx_model_files
from leanloop.core.child import Child
from leanloop.core.contracts import Analysis, LayerSensitivity, ModelFiles, OperatorCoverage
from leanloop.core.events import progress
from leanloop.core.hardware import hardware_id, instruction_sets
from leanloop.core.settings import Settings
from leanloop.core.store import Store
from leanloop.runtime import open_session, predict
from leanloop.runtime.pytorch import MEMORY_FORMATS, format_of

SENSITIVITY_SECONDS = 20.0
LATENCY_SECONDS = 0.3
LAYER_SECONDS = 0.6


def analyze(bundle: Bundle, settings: Settings, store: Store | None = None, child: Child | None = None) -> Analysis:
    """Measure a model at the goal's batch size and number of threads, and say what could make it leaner.

    MACs, bytes and shapes are those of one sample; times are those of one batch. A bundle with a factory is shown by
    its PyTorch modules and timed in eager PyTorch; one with a ``.pt2`` or ``.onnx`` file by its ONNX nodes, timed in
    ONNX Runtime. Expected speed-ups compare with that latency.

    Args:
        bundle: The original, its data and its metric.
        settings: The goal's ``batch_size``, ``threads``, ``minimise`` and ``max_accuracy_drop``, and the targets.
        store: Keeps the export to ONNX, for the steps that follow.
        child: The process to export in; one of its own without it.

    Raises:
        ConversionError: The model cannot be exported to ONNX, which every target needs.
        DataError: The metric needs labels and the validation split has none.
    """
    with TemporaryDirectory(prefix="leanloop-analyze-") as scratch:
        return _analyze(bundle, settings, store, child, Path(scratch))


def _analyze(bundle: Bundle, settings: Settings, store: Store | None, child: Child | None, folder: Path) -> Analysis:
    goal = settings.goal
    progress(0, 100, "exporting to ONNX")
    file = folder / "model.onnx"
    fp32_onnx(bundle, file, store, child)
    graph = Graph(file, _parameters(bundle))
    sample, batch = batch_of(bundle.samples, 1), batch_of(bundle.samples, goal.batch_size)
    progress(20, 100, "asking the targets about the operators")
    coverage = operator_coverage(file, settings.targets)
    progress(25, 100, "timing")
    fp32_ms = _fp32_latencies(coverage, file, folder, batch, goal.threads)
    node_ms = node_times(graph, file, batch, threads=goal.threads, seconds=LAYER_SECONDS)
    if bundle.manifest.kind == "factory":
        module = bundle.module()
        costs, peak = module_costs(module, sample), peak_activation_bytes(module, sample)
        latency_ms, times_ms = _module_times(bundle, batch, goal.threads)
    else:
        costs, peak = graph.costs(sample), graph.peak_activation_bytes(sample)
        latency_ms = fp32_ms["onnxruntime"]
        times_ms = {graph.layer_names.get(node, node): time for node, time in node_ms.items()}
    progress(40, 100, "scoring the original")
    metric = _metric(bundle, file)
    # A revision is as sensitive as what it was revised from; a repair does not wait for it to be measured again.
    found = () if bundle.manifest.parent else _sensitivities(bundle, graph, node_ms)
    weight_bytes = sum(cost.weight_bytes for cost in costs)
    evidence = Evidence(
        batch_size=goal.batch_size,
        original_ms=latency_ms,
        fp32_ms={target: time for target, time in fp32_ms.items() if target in settings.targets},
        blocked=_blocked(coverage, settings),
        kernels=_kernels(graph, node_ms),
        weight_bytes=weight_bytes,
        sensitivity=found,
        allowed_drop=goal.max_accuracy_drop * abs(metric),
        untrainable=_untrainable(bundle),
        training_samples=bundle.manifest.splits["train"].samples if bundle.trainable else 0,
        instruction_sets=instruction_sets(),
    )
    progress(100, 100, "done")
    return Analysis(
        bundle_digest=bundle.manifest.digest,
        parameters=sum(cost.parameters for cost in costs),
        macs=sum(cost.macs for cost in costs),
        weight_bytes=weight_bytes,
        activation_bytes=peak,
        batch_size=goal.batch_size,
        latency_ms=latency_ms,
        metric_name=bundle.metric.name,
        metric=metric,
        layers=timed(costs, times_ms, latency_ms),
        sensitivity=found,
        coverage=coverage,
        opportunities=opportunities(evidence, minimise_size=goal.minimise == "size"),
        hardware_id=hardware_id(),
    )


def _parameters(bundle: Bundle) -> Arrays:
    if not bundle.has_module:
        return {}
    return {name: tensor.numpy() for name, tensor in bundle.module().state_dict().items()}


def _fp32_latencies(
    coverage: tuple[OperatorCoverage, ...], file: Path, folder: Path, batch: Arrays, threads: int
) -> dict[str, float]:
    models = {"onnxruntime": (onnx_model_files(file, "fp32"), folder)}
    for found in coverage:
        if found.supported and found.target != "onnxruntime":
            place = folder / found.target
            models[found.target] = (TARGETS[found.target].convert(file, place, "fp32"), place)
    return {target: _latency(model, place, batch, threads) for target, (model, place) in models.items()}


def _latency(model: ModelFiles, folder: Path, batch: Arrays, threads: int, bundle: Bundle | None = None) -> float:
    session = open_session(model, folder, threads=threads, bundle=bundle)
    try:
        return quick_latency(session, batch, seconds=LATENCY_SECONDS)
    finally:
        session.close()


def _module_times(bundle: Bundle, batch: Arrays, threads: int) -> tuple[float, dict[str, float]]:
    model = ModelFiles(
        runtime="pytorch",
        precision="fp32",
        main=bundle.manifest.weights,
        files=(bundle.manifest.weights,),
        size_bytes=bundle.manifest.weights_bytes,
    )
    latencies = {}
    for name in MEMORY_FORMATS:
        hinted = model.model_copy(update={"hints": {"memory_format": name}})
        latencies[name] = _latency(hinted, bundle.folder, batch, threads, bundle)
    fastest = min(latencies, key=lambda name: latencies[name])
    memory_format = format_of(fastest)
    module: nn.Module = bundle.module().to(memory_format=memory_format)  # type: ignore[call-overload]
    inputs = tuple(
        tensor.contiguous(memory_format=memory_format) if tensor.ndim == 4 else tensor for tensor in tensors(batch)
    )
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        times_ms = module_times(module, inputs, LAYER_SECONDS)
    finally:
        torch.set_num_threads(previous)
    return latencies[fastest], times_ms


def _metric(bundle: Bundle, file: Path) -> float:
    session = open_session(onnx_model_files(file, "fp32"), file.parent, threads=torch.get_num_threads())
    try:
        validation = bundle.split("validation")
        outputs = predict(session, validation)
    finally:
        session.close()
    return bundle.score(outputs, validation, outputs)


def _sensitivities(bundle: Bundle, graph: Graph, node_ms: Mapping[str, float]) -> tuple[LayerSensitivity, ...]:
    pending = trials(graph, order=sorted(node_ms, key=lambda node: -node_ms[node]))

    def tell(done: int, trial: Trial) -> None:
        progress(50 + 50 * done / len(pending), 100, f"trying {trial.treatment} on {trial.layer.name}")

    return sensitivities(bundle, graph, pending, seconds=SENSITIVITY_SECONDS, on_trial=tell)


def _kernels(graph: Graph, node_ms: Mapping[str, float]) -> list[Kernel]:
    total = sum(node_ms.values())
    # What the cheapest node takes is what any node takes, whatever it computes.
    overhead = min(time for node, time in node_ms.items() if node != RUNTIME_WORK)
    kernels = []
    for layer in graph.weighted_layers:
        weight = graph.constants[layer.weight]
        channels = weight.shape[layer.channel_axis]
        kernels.append(
            Kernel(
                kind=layer.kind,
                share=max(0.0, node_ms.get(layer.node, 0.0) - overhead) / total,
                weight_bytes=weight.nbytes,
                channels=channels // layer.groups,
                reduction=weight.size // channels,
                prunable=not layer.last and layer.groups == 1,
            )
        )
    return kernels


def _blocked(coverage: tuple[OperatorCoverage, ...], settings: Settings) -> dict[str, str]:
    blocked = {target: f"{target} is not among the settings' targets." for target in TARGETS}
    for found in coverage:
        del blocked[found.target]
        if not found.supported:
            blocked[found.target] = found.note
    return blocked


def _untrainable(bundle: Bundle) -> str:
    if bundle.trainable:
        return ""
    if bundle.manifest.kind != "factory":
        return (
            f"A .{bundle.manifest.kind} file's architecture cannot be changed and fine-tuned: post-training techniques "
            "only. Bring a factory with weights, and training data."
        )
    return "There is no training data: what is taken out could not be fine-tuned. Post-training techniques only."
