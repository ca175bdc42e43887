"""The loop's metrics for Prometheus, drawn from one `LoopView`: whatever is read belongs to the same moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from leanloop.monitoring.view import Answer, LoopView, ModelView

CODES: dict[Answer, int] = {"ok": 0, "bad": 1, "unknown": -1}
"""Values of ``leanloop_question_state``."""

_RELEASE = ["model", "version"]


class LoopCollector(Collector):
    """Gives the metrics of a view.

    Args:
        view: Returns the newest one.
    """

    def __init__(self, view: Callable[[], LoopView]) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """All families, at one moment."""
        view = self._view()
        yield from _of_loop(view)
        yield from _of_models(view.models)


def exposition(collector: LoopCollector) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)


def _of_loop(view: LoopView) -> Iterator[Metric]:
    yield _gauge("last_tick_timestamp_seconds", "Unix time when the loop last looked", view.tick)
    yield _gauge("blind", "1 while latency cannot be watched, since Prometheus does not answer", bool(view.blind))
    yield _counter("capture_records", "Records collected since the service started", view.captured)
    yield _counter("capture_dropped", "Sampled records that were lost: full queue or full disk", view.dropped)
    yield _counter("capture_damaged_segments", "Segments that could not be read whole", view.damaged)
    if view.lag_seconds is not None:
        yield _gauge("capture_lag_seconds", "Age of the newest record", view.lag_seconds)
    yield _gauge("run_under_way", "1 while a run is under way", bool(view.run))
    compute = HistogramMetricFamily(
        "leanloop_compute_seconds", "Time in the model, without queueing, of captured requests", labels=_RELEASE
    )
    for one in view.compute:
        buckets = [(str(bound), count) for bound, count in one.buckets]
        compute.add_metric([one.model, str(one.version)], [*buckets, ("+Inf", one.requests)], one.total_seconds)
    yield compute
    runs = CounterMetricFamily("leanloop_runs", "Runs, by how they ended", labels=["model", "state"])
    for model, states in view.runs.items():
        for state, count in states.items():
            runs.add_metric([model, state], count)
    yield runs
    failing = GaugeMetricFamily("leanloop_look_failures", "Looks in a row that have failed", labels=["what"])
    for failure in view.failures:
        failing.add_metric([failure.what], failure.looks)
    yield failing
    yield _pages(view)


def _pages(view: LoopView) -> Metric:
    family = GaugeMetricFamily("leanloop_page", "1 while a person must look", labels=_RELEASE)
    for model in view.models:
        family.add_metric(_release(model), any(one.state == "paged" for one in model.incidents))
    for name in sorted({failure.model for failure in view.failures if failure.paged}):
        family.add_metric([name, ""], 1)  # whatever version it is: nobody could look
    return family


def _of_models(models: tuple[ModelView, ...]) -> Iterator[Metric]:
    yield _per_release(models, "question_state", "0 ok, 1 bad, -1 unknown", "question", _questions)
    yield _per_release(models, "accuracy", "By labels, with its interval", "bound", _accuracy)
    yield _per_release(models, "estimated_accuracy", "Without labels, with its interval", "bound", _estimate)
    yield _per_release(models, "agreement", "Of the release with its parent", "kind", _agreement)
    yield _per_release(models, "clipping_ratio", "Input values outside the reference's range", "input", _clipping)
    yield _per_release(models, "drift_distance", "From the reference, 0 to 1", "feature", _distances)
    yield _per_release(models, "drift_threshold", "Distance that alarms at this window size", "feature", _thresholds)
    yield _per_release(models, "version_answers", "1 when a real inference is answered", "served", _answers)
    figures: tuple[tuple[str, str, Callable[[ModelView], float]], ...] = (
        ("label_coverage_ratio", "Share of the newest records that have a label", lambda model: model.coverage),
        ("labelled_records", "Labelled ones among the newest records", lambda model: model.labelled),
        ("window_records", "Records in the last judged window", lambda model: model.window_records),
        ("request_rate", "Samples per second", lambda model: model.request_rate),
        ("capacity", "Samples per second, measured when the release was tuned", lambda model: model.capacity),
        ("incidents_open", "Open incidents", lambda model: len(model.incidents)),
    )
    for name, text, figure in figures:
        family = GaugeMetricFamily(f"leanloop_{name}", text, labels=_RELEASE)
        for model in models:
            family.add_metric(_release(model), figure(model))
        yield family
    counts: tuple[tuple[str, str, Callable[[ModelView], float]], ...] = (
        ("windows", "Judged windows", lambda model: model.windows),
        ("windows_skipped", "Windows passed over: more came than could be judged", lambda model: model.skipped),
        ("label_conflicts", "Labels that contradicted an earlier one", lambda model: model.conflicts),
    )
    for name, text, figure in counts:
        counted = CounterMetricFamily(f"leanloop_{name}", text, labels=_RELEASE)
        for model in models:
            counted.add_metric(_release(model), figure(model))
        yield counted


Values = Callable[[ModelView], dict[str, float]]


def _questions(model: ModelView) -> dict[str, float]:
    return {question: CODES[answer] for question, answer in model.questions.items()}


def _accuracy(model: ModelView) -> dict[str, float]:
    expected = {} if model.expected_accuracy is None else {"expected": model.expected_accuracy}
    return expected | ({} if model.accuracy is None else model.accuracy.model_dump())


def _estimate(model: ModelView) -> dict[str, float]:
    return {} if model.estimate is None else model.estimate.model_dump()


def _agreement(model: ModelView) -> dict[str, float]:
    found = {"observed": model.agreement, "expected": model.expected_agreement}
    return {kind: value for kind, value in found.items() if value is not None}


def _clipping(model: ModelView) -> dict[str, float]:
    return model.clipping


def _distances(model: ModelView) -> dict[str, float]:
    return {feature.name: feature.distance for feature in model.features}


def _thresholds(model: ModelView) -> dict[str, float]:
    return {feature.name: feature.threshold for feature in model.features}


def _answers(model: ModelView) -> dict[str, float]:
    return {str(version.version): version.answers for version in model.versions}


def _per_release(models: tuple[ModelView, ...], name: str, text: str, label: str, values: Values) -> Metric:
    family = GaugeMetricFamily(f"leanloop_{name}", text, labels=[*_RELEASE, label])
    for model in models:
        for key, value in values(model).items():
            family.add_metric([*_release(model), key], value)
    return family


def _release(model: ModelView) -> list[str]:
    return [model.model, str(model.version)]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"leanloop_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"leanloop_{name}", text, value=value)
