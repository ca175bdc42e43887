"""What really ran in a variant, and one sentence on why it is not faster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leanloop.bundle import Arrays
from leanloop.core.contracts import Execution, KernelTime, ModelFiles
from leanloop.runtime.profile import Kernel, profile

_SECONDS = 0.2

_KERNELS_KEPT = 8
"""The slowest ones, for the report."""

_NAMED = 3

_MUCH_CONVERSION = 0.15
"""Share of the kernels' time above which changing types and layouts is worth a word."""

_MOSTLY_OVERHEAD = 0.6
"""Kernels that take less than this share of a call leave the rest to the runtime's work around them."""


def execution(model: ModelFiles, folder: Path, inputs: Arrays, *, threads: int, latency_ms: float) -> Execution | None:
    """Profile one variant.

    Args:
        model: Its files.
        folder: That they are in.
        inputs: One batch of the goal's size.
        threads: CPU threads.
        latency_ms: p50 of the variant for this batch, measured without a profiler.

    Returns:
        What was found; None for a runtime that does not tell.
    """
    batch_size = len(next(iter(inputs.values())))
    plan = model.plan_of(batch_size, threads)
    # Of several streams one is looked at: they do the same side by side.
    part = {name: values[: batch_size // plan.streams] for name, values in inputs.items()}
    kernels = profile(model, folder, part, threads=max(1, plan.threads // plan.streams), seconds=_SECONDS)
    return None if kernels is None else explain(kernels, model.precision, latency_ms)


def explain(kernels: Sequence[Kernel], precision: str, latency_ms: float) -> Execution:
    """Put kernels into figures and words.

    Args:
        kernels: Of one call.
        precision: That the variant promises.
        latency_ms: p50 of the variant.
    """
    compute = [kernel for kernel in kernels if kernel.role == "compute"]
    total = sum(kernel.milliseconds for kernel in kernels)
    conversion = sum(kernel.milliseconds for kernel in kernels if kernel.role == "conversion")
    slowest = sorted(kernels, key=lambda kernel: -kernel.milliseconds)
    return Execution(
        operators=len(compute),
        int8_operators=sum(kernel.precision == "int8" for kernel in compute),
        kernel_ms=total,
        conversion_share=conversion / total if total else 0.0,
        implementations=tuple(sorted({kernel.implementation for kernel in compute})),
        slowest=tuple(
            KernelTime(
                name=kernel.name,
                kind=kernel.kind,
                implementation=kernel.implementation,
                share=kernel.milliseconds / total if total else 0.0,
            )
            for kernel in slowest[:_KERNELS_KEPT]
        ),
        why_not_faster=_sentence(compute, slowest, precision, total, conversion, latency_ms),
    )


def _sentence(
    compute: Sequence[Kernel],
    slowest: Sequence[Kernel],
    precision: str,
    total: float,
    conversion: float,
    latency_ms: float,
) -> str:
    floats = [kernel for kernel in compute if kernel.precision and kernel.precision != "int8"]
    if precision == "int8" and floats:
        named = ", ".join(f"{kernel.name} ({kernel.precision})" for kernel in floats[:_NAMED])
        more = f" and {len(floats) - _NAMED} more" if len(floats) > _NAMED else ""
        return f"{len(floats)} of {len(compute)} heavy operators do not run in INT8: {named}{more}."
    if total < _MOSTLY_OVERHEAD * latency_ms:
        return (
            f"Its kernels take {total:.3g} of {latency_ms:.3g} ms: the rest is the runtime's work around each of them, "
            "so fewer operators would help more than fewer multiplications."
        )
    if conversion > _MUCH_CONVERSION * total:
        return f"{conversion / total:.0%} of its kernels' time only changes types and layouts of numbers."
    first = slowest[0]
    return f"{first.milliseconds / total:.0%} of its kernels' time is one, {first.name} ({first.implementation})."
