from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leanloop.core.errors import ServingError
from leanloop.serving import Golden, check_golden, check_roughly


def test_a_batch_size_is_asked_for_exactly_and_has_answers_of_its_own(triton, models, new_name):
    spec, package = models.counting()
    spec = spec.model_copy(update={"name": new_name()})
    triton.serve(spec, package)
    golden = Golden.ask(
        lambda inputs: {"same": inputs["x"], "together": np.full(len(inputs["x"]), len(inputs["x"]))},
        {"x": np.arange(5, dtype=np.float32).reshape(5, 1)},
        (4,),
        tolerance=1e-6,
        rough_tolerance=4.0,
    )
    check_golden(triton.client, spec.name, golden, batch_size=8)
    assert check_roughly(triton.client, spec.name, golden) == 1
    for size in (1, 4):
        answers = golden.answers[size]
        wrong = {**golden.answers, size: {**answers, "together": 2 * answers["together"]}}
        with pytest.raises(ServingError, match=f"batches of {size}, "):
            check_golden(triton.client, spec.name, replace(golden, answers=wrong), batch_size=8)
    with pytest.raises(ServingError, match="batches of 5"):
        check_golden(triton.client, spec.name, replace(golden, rough_tolerance=0.1), batch_size=8)
