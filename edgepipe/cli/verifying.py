"""The pipeline beside the whole model in one process: logits, and a step of training."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from edgepipe.cli.answering import Shown, deployed, stages_json
from edgepipe.cli.show import errors, print_json
from edgepipe.coordinator.launch import Running, Where, weight_parts
from edgepipe.coordinator.one_step import StepErrors, step_errors, trial_of
from edgepipe.coordinator.pipeline import Pipeline
from edgepipe.coordinator.planning import How, check_cut
from edgepipe.coordinator.prepared import prepare
from edgepipe.coordinator.reference import Logits, reference_logits
from edgepipe.coordinator.reference_training import reference_step
from edgepipe.coordinator.stage_client import PromptLogits
from edgepipe.coordinator.text import check_length
from edgepipe.coordinator.trial import take_step, without_dropout
from edgepipe.core.compression import LOSSY_ORDER
from edgepipe.core.frame import Codec, DType, SequenceId
from edgepipe.core.job import Request
from edgepipe.core.sampling import Sampling

EXACT = 1e-3
"""Largest difference in float32 without a codec: other kernels for other shapes."""
LOSSY = 0.02
"""Root mean square error of other runs, in standard deviations of the logits."""
LOSSY_INT4 = 0.25
"""The same where activations travel in 4 bits."""

EXACT_STEP = 1e-3
"""Relative error of the loss, and of all gradients, in float32 without a codec."""
EXACT_TENSOR = 1e-2
"""Of any one tensor's gradient: SmolLM2's layers multiply rounding by hundreds."""
LOSSY_LOSS: Mapping[Codec, float] = {
    Codec.NONE: 0.01,
    Codec.BF16: 0.01,
    Codec.INT8: 0.01,
    Codec.INT4: 0.05,
}
LOSSY_GRADIENT: Mapping[Codec, float] = {
    Codec.NONE: 0.05,
    Codec.BF16: 0.05,
    Codec.INT8: 0.05,
    Codec.INT4: 0.5,
}
"""Relative error of all gradients together, by the lossiest codec of activations (docs/LOG.md)."""


async def verify_model(
    name: str, prompt: str, where: Where, how: How, *, train: bool, json: bool
) -> bool:
    """`edgepipe verify`: whether the errors are within bounds."""
    prepared = await prepare(name, home=where.home)
    check_cut(how, prepared.shape)
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    prompt_ids = tokenizer.prompt_ids(prompt, raw=True)
    check_length(len(prompt_ids), 1, prepared.shape.max_positions)
    trial = trial_of(prompt_ids) if train else None
    async with deployed(prepared, where, how, len(prompt_ids) + 1, quiet=True) as running:
        logits = await _prompt_logits(running.pipeline, prompt_ids)
        dtype, codec = running.plan.inputs.dtype, _codec(running)
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
    if trial is not None:
        pinned = replace(how, pinned=running.plan)
        found = await take_step(prepared, trial, where, pinned, Shown(errors(), quiet=True))
        right = await asyncio.to_thread(
            reference_step,
            prepared.shape,
            without_dropout(prepared.model.config),
            parts,
            dtype,
            trial,
        )
        document = _with_step(document, step_errors(found, right), dtype, codec)
    if json:
        print_json(document)
    else:
        Console().print(_sentence(document))
    return bool(document["ok"])


def _codec(running: Running) -> Codec:
    """The lossiest that anything travels in."""
    stages = running.pipeline.deployment.stages
    return max((stage.codec for stage in stages[:-1] or stages), key=LOSSY_ORDER.index)


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
    bound = LOSSY_INT4 if codec is Codec.INT4 else LOSSY
    return {
        "ok": largest <= EXACT if _is_exact(dtype, codec) else relative <= bound,
        "logit_error": relative,
        "max_logit_difference": largest,
        "logit_std": float(expected.std()),
        "loss_error": None,
        "gradient_error": None,
    }


def _is_exact(dtype: DType, codec: Codec) -> bool:
    return dtype is DType.FLOAT32 and codec is Codec.NONE


def _with_step(
    document: dict[str, Any], found: StepErrors, dtype: DType, codec: Codec
) -> dict[str, Any]:
    if _is_exact(dtype, codec):
        ok = max(found.loss, found.gradient) <= EXACT_STEP and found.worst_gradient <= EXACT_TENSOR
    else:
        ok = found.loss <= LOSSY_LOSS[codec] and found.gradient <= LOSSY_GRADIENT[codec]
    return {
        **document,
        "ok": document["ok"] and ok,
        "loss_error": _number(found.loss),
        "gradient_error": _number(found.gradient),
        "worst_gradient_error": _number(found.worst_gradient),
        "worst_gradient": found.worst_tensor,
    }


def _number(value: float) -> float | None:
    """JSON has no others."""
    return value if math.isfinite(value) else None


def _sentence(document: dict[str, Any]) -> str:
    verdict = "equal to" if document["ok"] else "NOT equal to"
    return (
        f"{len(document['plan'])} stages, {document['dtype']}, codec {document['codec']}: "
        f"{verdict} one process (error {document['logit_error']:.2%} of the logits' deviation, "
        f"at most {document['max_logit_difference']:.2g}{_of_step(document)})"
    )


def _of_step(document: dict[str, Any]) -> str:
    if "worst_gradient" not in document:
        return ""
    loss, gradient, worst = (
        "not a number" if document[name] is None else f"{document[name]:.2g}"
        for name in ("loss_error", "gradient_error", "worst_gradient_error")
    )
    return (
        f"; of a training step: loss {loss}, gradients {gradient}, "
        f"at worst {worst} in {document['worst_gradient']}"
    )
