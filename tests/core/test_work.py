"""What a plan is made for."""

from __future__ import annotations

import pytest

from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.work import Objective, Work


@pytest.mark.parametrize(
    ("prompt", "answer", "context"),
    [
        (100, None, 550.0),  # the slot is filled
        (100, 200, 200.0),
        (100, 5000, 550.0),
        (5000, 200, 999.5),  # the prompt leaves room for one token
    ],
)
def test_a_decoded_token_sees_the_prompt_and_half_of_the_answer(
    prompt: int, answer: int | None, context: float
) -> None:
    workload = Workload(dtype=DType.FLOAT32, num_slots=1, max_positions=1000, prefill_chunk=64)
    work = Work(
        objective=Objective.LATENCY,
        workload=workload,
        prompt_tokens=prompt,
        answer_tokens=answer,
    )
    assert work.decode_context == context
