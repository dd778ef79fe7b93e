"""The pipeline's logits beside the whole model's."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from rich.console import Console

from edgepipe.cli.answering import deployed, stages_json
from edgepipe.cli.show import print_json
from edgepipe.coordinator.launch import Where, weight_parts
from edgepipe.coordinator.pipeline import Pipeline
from edgepipe.coordinator.planning import How, check_cut
from edgepipe.coordinator.prepared import prepare
from edgepipe.coordinator.reference import Logits, reference_logits
from edgepipe.coordinator.stage_client import PromptLogits
from edgepipe.coordinator.text import check_length
from edgepipe.core.frame import Codec, DType, SequenceId
from edgepipe.core.job import Request
from edgepipe.core.sampling import Sampling

EXACT = 1e-3
"""Largest difference in float32 without a codec: other kernels for other shapes."""
LOSSY = 0.02
"""Root mean square error of any other run, in standard deviations of the logits."""


async def verify_logits(name: str, prompt: str, where: Where, how: How, *, json: bool) -> bool:
    """`edgepipe verify`: whether the errors are within bounds."""
    prepared = await prepare(name, home=where.home)
    check_cut(how, prepared.shape)
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    prompt_ids = tokenizer.prompt_ids(prompt, raw=True)
    check_length(len(prompt_ids), 1, prepared.shape.max_positions)
    async with deployed(prepared, where, how, len(prompt_ids) + 1, quiet=True) as running:
        logits = await _prompt_logits(running.pipeline, prompt_ids)
        dtype = running.plan.inputs.dtype
        codec = running.pipeline.deployment.stages[0].codec
        stages = stages_json(running)
    parts = await weight_parts(prepared, home=where.home, progress=lambda _done, _total: None)
    expected = await asyncio.to_thread(
        reference_logits, prepared.shape, prepared.model.config, parts, dtype, prompt_ids
    )
    document = {
        **_errors(logits, expected, dtype, codec),
        "codec": codec,
        "dtype": dtype,
        "num_tokens": len(prompt_ids),
        "plan": stages,
    }
    if json:
        print_json(document)
    else:
        Console().print(_sentence(document))
    return bool(document["ok"])


async def _prompt_logits(pipeline: Pipeline, prompt_ids: list[int]) -> Logits:
    request = Request(
        sequence=SequenceId(1),
        prompt_ids=tuple(prompt_ids),
        sampling=Sampling(),
        max_tokens=1,
        eos_ids=frozenset(),
        prompt_logits=True,
    )
    rows = [
        produced.rows
        async for produced in pipeline.generate(request)
        if isinstance(produced, PromptLogits)
    ]
    return np.concatenate(rows)


def _errors(logits: Logits, expected: Logits, dtype: DType, codec: Codec) -> dict[str, Any]:
    """`logit_error` is relative: the error's root mean square over the logits' deviation."""
    difference = logits - expected
    relative = float(np.sqrt(np.mean(difference**2)) / expected.std())
    largest = float(np.abs(difference).max())
    exact = dtype is DType.FLOAT32 and codec is Codec.NONE
    return {
        "ok": largest <= EXACT if exact else relative <= LOSSY,
        "logit_error": relative,
        "max_logit_difference": largest,
        "logit_std": float(expected.std()),
        "loss_error": None,
        "gradient_error": None,
    }


def _sentence(document: dict[str, Any]) -> str:
    verdict = "equal to" if document["ok"] else "NOT equal to"
    return (
        f"{len(document['plan'])} stages, {document['dtype']}, codec {document['codec']}: "
        f"{verdict} one process (error {document['logit_error']:.2%} of the logits' deviation, "
        f"at most {document['max_logit_difference']:.2g})"
    )
