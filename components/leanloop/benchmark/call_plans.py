"""How calls are computed: thread counts and streams, chosen by measurement for each batch size.

A goal's ``threads`` is what a model instance may use, not what it should. Waking threads costs microseconds, which a
small model at batch 1 never wins back; and a large batch is often faster as equal parts on streams of fewer threads,
which need not wait for each other after every layer. Which holds depends on model, batch and machine, so it is tried:
each plan against the usual one (one stream on all threads), in turns.

Graph optimisations are no choice: both runtimes do all of them, always. Instances and batching are tried where they
take effect, in Triton (`leanloop.serving.tune`).

Source: OpenVINO's documentation on streams and inference threads of the CPU plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from leanloop.benchmark.latency import batch_of, quick_ratio
from leanloop.bundle import Arrays
from leanloop.core.contracts import CallPlan, ModelFiles
from leanloop.core.events import emit
from leanloop.runtime import Session, open_session

_WORTH_IT = 0.95
"""Share of the usual time above which a plan is not worth deviating for."""

_ROUNDS, _SECONDS = 7, 0.04


def with_plans(
    model: ModelFiles, folder: Path, samples: Arrays, batch_sizes: Sequence[int], *, threads: int
) -> ModelFiles:
    """A model's files with the plan of each batch size that is clearly faster with another than the usual one.

    Args:
        model: Its files; a runtime that has nothing to choose leaves them as they are.
        folder: That they are in.
        samples: Real inputs; repeated when a batch is larger.
        batch_sizes: That matter.
        threads: CPU threads that a call may use.
    """
    usual = model.model_copy(update={"plans": {}})
    choices = {batch_size: plans_of(model.runtime, batch_size, threads) for batch_size in batch_sizes}
    choices = {batch_size: plans for batch_size, plans in choices.items() if plans}
    if not choices:
        return usual
    found = {}
    with closing(open_session(usual, folder, threads=threads)) as session:
        for batch_size, plans in choices.items():
            inputs = batch_of(samples, batch_size)
            ratios = {plan: _ratio(usual, folder, inputs, plan, session, threads=threads) for plan in plans}
            best = min(ratios, key=ratios.__getitem__)
            if ratios[best] < _WORTH_IT:
                found[batch_size] = best
                emit("call_plan", batch_size=batch_size, **best.model_dump(), of_the_usual_time=round(ratios[best], 3))
    return model.model_copy(update={"plans": found})


def plans_of(runtime: str, batch_size: int, threads: int) -> list[CallPlan]:
    """What may be tried beside the usual plan: fewer threads, by halves; where there are streams, these as well."""
    if runtime not in ("onnxruntime", "openvino"):
        return []
    fewer = [threads >> times for times in range(threads.bit_length())]
    found = [CallPlan(threads=count) for count in fewer[1:]]
    if runtime == "openvino":
        streams = [count for count in fewer if 1 < count <= batch_size and batch_size % count == 0]
        found += [CallPlan(threads=threads, streams=count) for count in streams]
    return found


def _ratio(model: ModelFiles, folder: Path, inputs: Arrays, plan: CallPlan, usual: Session, *, threads: int) -> float:
    """Time of a call by a plan, as a share of the usual session's."""
    planned = model.model_copy(update={"plans": {len(next(iter(inputs.values()))): plan}})
    with closing(open_session(planned, folder, threads=threads)) as session:
        return quick_ratio(session, usual, inputs, rounds=_ROUNDS, seconds=_SECONDS)
