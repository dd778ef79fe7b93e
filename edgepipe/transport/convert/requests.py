"""What the coordinator asks of a stage."""

from __future__ import annotations

from edgepipe.core.frame import SequenceId
from edgepipe.core.job import Request
from edgepipe.core.sampling import Sampling
from edgepipe.core.stage import Admission
from edgepipe.wire.v1 import stage_pb2


def request_to_wire(request: Request) -> stage_pb2.Admit:
    """A sequence to generate."""
    return stage_pb2.Admit(
        sequence=request.sequence,
        prompt_ids=request.prompt_ids,
        sampling=_sampling_to_wire(request.sampling),
        max_tokens=request.max_tokens,
        eos_ids=request.eos_ids,
        prompt_logits=request.prompt_logits,
    )


def admission_from_wire(wire: stage_pb2.Admit) -> Admission:
    """What the last stage keeps of an admitted sequence. Raises UsageError for bad sampling."""
    return Admission(
        sequence=SequenceId(wire.sequence),
        prompt_length=len(wire.prompt_ids),
        sampling=_sampling_from_wire(wire.sampling),
        max_tokens=wire.max_tokens,
        eos_ids=frozenset(wire.eos_ids),
        prompt_logits=wire.prompt_logits,
    )


def _sampling_to_wire(sampling: Sampling) -> stage_pb2.Sampling:
    return stage_pb2.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        num_likely=sampling.num_likely,
    )


def _sampling_from_wire(wire: stage_pb2.Sampling) -> Sampling:
    return Sampling(
        temperature=wire.temperature,
        top_p=wire.top_p,
        top_k=wire.top_k,
        seed=wire.seed,
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        logit_bias=tuple(sorted(wire.logit_bias.items())),
        num_likely=wire.num_likely if wire.HasField("num_likely") else None,
    )
