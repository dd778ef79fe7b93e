"""Frames and hellos for the transport's tests."""

import numpy as np

from edgepipe.core.frame import (
    Codec,
    Direction,
    DType,
    FinishReason,
    Frame,
    Header,
    JobId,
    SampledToken,
    SequenceId,
    Span,
)
from edgepipe.transport.link import Hello

HELLO = Hello(api=1, job="job", epoch=3, fence=7, from_stage=0, credits=2)
TOKENS = Frame(
    header=Header(
        job=JobId("job"),
        epoch=3,
        step=9,
        group=1,
        sampled=(
            SampledToken(
                sequence=SequenceId(5), slot=0, position=8, token=77, logprob=-0.5, finish=None
            ),
            SampledToken(
                sequence=SequenceId(6),
                slot=1,
                position=4,
                token=2,
                logprob=-1.5,
                finish=FinishReason.STOP,
            ),
        ),
    ),
    payload=memoryview(b""),
)


def rows(num_rows, dim=16, *, step=1, seed=0):
    """A frame of `num_rows` float32 rows of one sequence."""
    payload = np.random.default_rng(seed).bytes(num_rows * dim * 4)
    header = Header(
        job=JobId("job"),
        epoch=3,
        step=step,
        group=0,
        spans=(Span(slot=0, start=7, count=num_rows),),
        sequences=(SequenceId(5),),
        direction=Direction.FORWARD,
        shape=(num_rows, dim),
        dtype=DType.FLOAT32,
        codec=Codec.NONE,
        payload_bytes=len(payload),
        trace_id=2**63,
    )
    return Frame(header=header, payload=memoryview(payload))
