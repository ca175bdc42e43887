"""ONNX Runtime on the CPU: sequential, one pool of ``threads`` threads, all graph optimisations.

A batch size whose plan (`CallPlan`) has another number of threads gets a session of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leanloop.bundle import Arrays, Bundle
from leanloop.core.contracts import ModelFiles
from leanloop.runtime.session import RUNTIMES

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeSession:
    """One ``InferenceSession`` for all batch sizes, but for those that have another."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        planned: Mapping[int, onnxruntime.InferenceSession],
        description: dict[str, str],
    ) -> None:
        self._session, self._planned = session, planned
        self._outputs = [output.name for output in session.get_outputs()]
        self.description = description

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for one batch, by name."""
        return dict(zip(self._outputs, self._for(inputs).run(self._outputs, inputs), strict=True))

    def bound(self, inputs: Arrays) -> Callable[[], object]:
        """A call without arguments, on inputs bound once and outputs that are written in place."""
        import onnxruntime

        wrap = onnxruntime.OrtValue.ortvalue_from_numpy
        values_in = {name: wrap(np.ascontiguousarray(values)) for name, values in inputs.items()}
        values_out = {name: wrap(values) for name, values in self.run(inputs).items()}
        session = self._for(inputs)
        binding = session.io_binding()
        for name, value in values_in.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in values_out.items():
            binding.bind_ortvalue_output(name, value)
        run = session.run_with_iobinding

        def call() -> object:
            # Without RunOptions: handing them over costs 70 microseconds a call in 1.31.
            run(binding)
            # A binding does not keep the arrays that it reads and writes alive; this call does.
            return values_in, values_out

        return call

    def _for(self, inputs: Arrays) -> onnxruntime.InferenceSession:
        return self._planned.get(len(next(iter(inputs.values()))), self._session)

    def close(self) -> None:
        """Free the model."""
        del self._session, self._planned


@RUNTIMES.register("onnxruntime")
def open_onnxruntime(
    model: ModelFiles, folder: Path, *, threads: int, bundle: Bundle | None = None, batch_sizes: Sequence[int] = ()
) -> OnnxRuntimeSession:
    """Open an ``.onnx`` file; hints are session configuration entries."""
    import onnxruntime

    session = _open(model, folder, threads)
    others = {plan.threads: _open(model, folder, plan.threads) for plan in model.plans.values()}
    description = {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "threads": str(session.get_session_options().intra_op_num_threads),
        "precision": model.precision,
        "provider": session.get_providers()[0],
    }
    return OnnxRuntimeSession(session, {size: others[plan.threads] for size, plan in model.plans.items()}, description)


def _open(model: ModelFiles, folder: Path, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    for key, value in model.hints.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(folder / model.main), options, providers=["CPUExecutionProvider"])
