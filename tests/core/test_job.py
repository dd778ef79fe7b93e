"""A job's life as tables: an event on the left, what the shell must do on the right.

Instructions are written short, `admit 2 #7` for AdmitSequence(stage=2, request of sequence 7).
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from edgepipe.core.frame import FinishReason, SampledToken, SequenceId
from edgepipe.core.job import (
    MAX_LEASE_ATTEMPTS,
    AcquireLease,
    AdmitSequence,
    AnnounceReady,
    BackedOff,
    BackOff,
    CancelRequested,
    CancelSequence,
    ConnectStage,
    EmitToken,
    Event,
    GiveUpLeases,
    Instruction,
    Job,
    LeaseGranted,
    LeaseRefused,
    LoadStage,
    Phase,
    ProvideWeights,
    ReleaseLeases,
    Request,
    Requested,
    SequenceAdmitted,
    StageConnected,
    StageLoaded,
    Started,
    TokenSampled,
    WeightsProvided,
)
from edgepipe.core.sampling import Sampling


def short(instruction: Instruction) -> str:  # noqa: C901, PLR0911 -- a line each
    match instruction:
        case AcquireLease(stage=stage):
            return f"acquire {stage}"
        case ReleaseLeases(fences=fences):
            return "release " + " ".join(f"{stage}^{fence}" for stage, fence in fences.items())
        case BackOff(attempt=attempt):
            return f"back off {attempt}"
        case ProvideWeights(stage=stage):
            return f"provide {stage}"
        case LoadStage(stage=stage, fence=fence):
            return f"load {stage}^{fence}"
        case ConnectStage(stage=stage, next_stage=following, fence=fence):
            return f"connect {stage} to {following}^{fence}"
        case AnnounceReady():
            return "ready"
        case AdmitSequence(stage=stage, request=request):
            return f"admit {stage} #{request.sequence}"
        case CancelSequence(stage=stage, sequence=sequence):
            return f"cancel {stage} #{sequence}"
        case EmitToken(sampled=sampled):
            return f"emit #{sampled.sequence} {sampled.token}"
        case GiveUpLeases(reason=reason):
            return f"give up: {reason}"


def request(sequence: int) -> Request:
    return Request(
        sequence=SequenceId(sequence),
        prompt_ids=(1, 2, 3),
        sampling=Sampling(),
        max_tokens=4,
        eos_ids=frozenset(),
    )


def requested(sequence: int) -> Requested:
    return Requested(request=request(sequence))


def admitted(stage: int, sequence: int) -> SequenceAdmitted:
    return SequenceAdmitted(stage=stage, sequence=SequenceId(sequence))


def cancelled(sequence: int) -> CancelRequested:
    return CancelRequested(sequence=SequenceId(sequence))


def sampled(sequence: int, token: int, finish: FinishReason | None = None) -> TokenSampled:
    return TokenSampled(
        sampled=SampledToken(
            sequence=SequenceId(sequence),
            slot=0,
            position=3,
            token=token,
            logprob=0.0,
            finish=finish,
        )
    )


Table = Iterable[tuple[Event, list[str]]]


def live(job: Job, table: Table) -> None:
    for event, expected in table:
        assert [short(instruction) for instruction in job.handle(event)] == expected, event


def three_stages() -> Job:
    """The ring is 0 → 1 → 2 → 0; by node, the order of leases is 2, 0, 1."""
    return Job(num_stages=3, lease_order=(2, 0, 1))


LEASING: Table = [
    (Started(), ["acquire 2"]),
    (LeaseGranted(stage=2, fence=8), ["acquire 0"]),
    (LeaseGranted(stage=0, fence=5), ["acquire 1"]),
    (LeaseGranted(stage=1, fence=7), ["provide 0", "provide 1", "provide 2"]),
]
LOADING: Table = [
    (WeightsProvided(stage=1), ["load 1^7"]),
    (WeightsProvided(stage=0), ["load 0^5"]),
    (StageLoaded(stage=0), []),
    (StageLoaded(stage=1), []),
    (WeightsProvided(stage=2), ["load 2^8"]),
    (StageLoaded(stage=2), ["connect 0 to 1^7", "connect 1 to 2^8", "connect 2 to 0^5"]),
]
CONNECTING: Table = [
    (StageConnected(stage=2), []),
    (StageConnected(stage=0), []),
    (StageConnected(stage=1), ["ready"]),
]
TO_RUNNING = [*LEASING, *LOADING, *CONNECTING]


def test_a_whole_life() -> None:
    job = three_stages()
    phases = []
    for table in (LEASING, LOADING, CONNECTING):
        phases.append(job.phase)
        live(job, table)
    assert phases == [Phase.LEASING, Phase.LOADING, Phase.CONNECTING]
    assert job.phase is Phase.RUNNING
    assert job.fences == {2: 8, 0: 5, 1: 7}
    live(
        job,
        [
            (requested(7), ["admit 2 #7"]),
            (admitted(2, 7), ["admit 0 #7"]),
            (admitted(0, 7), []),
            (sampled(7, 40), ["emit #7 40"]),
            (sampled(7, 41, FinishReason.STOP), ["emit #7 41"]),
            (cancelled(7), []),
        ],
    )


def test_one_stage_is_a_ring_of_its_own() -> None:
    job = Job(num_stages=1, lease_order=(0,))
    live(
        job,
        [
            (Started(), ["acquire 0"]),
            (LeaseGranted(stage=0, fence=3), ["provide 0"]),
            (WeightsProvided(stage=0), ["load 0^3"]),
            (StageLoaded(stage=0), ["connect 0 to 0^3"]),
            (StageConnected(stage=0), ["ready"]),
            (requested(1), ["admit 0 #1"]),
            (admitted(0, 1), []),
            (sampled(1, 9), ["emit #1 9"]),
            (cancelled(1), ["cancel 0 #1"]),
        ],
    )


# ------------------------------------------------------------------------------------ leases


def test_a_refusal_gives_every_device_back_and_begins_again_later() -> None:
    job = three_stages()
    live(
        job,
        [
            (Started(), ["acquire 2"]),
            (LeaseGranted(stage=2, fence=8), ["acquire 0"]),
            (LeaseGranted(stage=0, fence=5), ["acquire 1"]),
            (LeaseRefused(stage=1, reason="taken"), ["release 2^8 0^5", "back off 1"]),
        ],
    )
    assert job.fences == {}
    live(
        job,
        [
            (BackedOff(), ["acquire 2"]),
            (LeaseGranted(stage=2, fence=11), ["acquire 0"]),
            (LeaseGranted(stage=0, fence=6), ["acquire 1"]),
            (LeaseGranted(stage=1, fence=9), ["provide 0", "provide 1", "provide 2"]),
        ],
    )
    assert job.fences == {2: 11, 0: 6, 1: 9}


def test_a_first_device_that_is_refused_leaves_nothing_to_give_back() -> None:
    job = three_stages()
    live(
        job,
        [
            (Started(), ["acquire 2"]),
            (LeaseRefused(stage=2, reason="taken"), ["back off 1"]),
            (BackedOff(), ["acquire 2"]),
            (LeaseRefused(stage=2, reason="taken"), ["back off 2"]),
        ],
    )


def test_after_the_last_attempt_the_job_gives_up_with_the_reason_it_was_given() -> None:
    job = three_stages()
    job.handle(Started())
    for attempt in range(1, MAX_LEASE_ATTEMPTS):
        live(
            job,
            [
                (LeaseRefused(stage=2, reason="taken"), [f"back off {attempt}"]),
                (BackedOff(), ["acquire 2"]),
            ],
        )
    live(job, [(LeaseRefused(stage=2, reason="leased to ann"), ["give up: leased to ann"])])
    assert job.phase is Phase.FAILED


def test_a_job_that_gives_up_still_holds_what_its_shell_gives_back_at_its_end() -> None:
    """Giving up ends the shell's tasks: a release beside it would be cut off."""
    job = three_stages()
    for attempt in range(MAX_LEASE_ATTEMPTS):
        job.handle(Started() if not attempt else BackedOff())
        job.handle(LeaseGranted(stage=2, fence=attempt))
        job.handle(LeaseRefused(stage=0, reason="taken"))
    assert job.phase is Phase.FAILED
    assert job.fences == {2: MAX_LEASE_ATTEMPTS - 1}


# ---------------------------------------------------------------------------------- requests


@pytest.mark.parametrize("done", range(len(TO_RUNNING)))
def test_requests_before_the_ring_is_closed_wait_in_their_order(done: int) -> None:
    job = three_stages()
    live(job, TO_RUNNING[:done])
    live(job, [(requested(1), []), (requested(2), [])])
    live(job, TO_RUNNING[done:-1])
    live(job, [(StageConnected(stage=1), ["ready", "admit 2 #1", "admit 2 #2"])])


def test_the_first_stage_hears_of_a_sequence_once_the_last_one_knows_it() -> None:
    job = three_stages()
    live(job, TO_RUNNING)
    live(
        job,
        [
            (requested(1), ["admit 2 #1"]),
            (requested(2), ["admit 2 #2"]),
            (admitted(2, 2), ["admit 0 #2"]),
            (admitted(0, 2), []),
            (admitted(2, 1), ["admit 0 #1"]),
        ],
    )


# -------------------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("done", range(len(TO_RUNNING)))
def test_a_request_that_is_cancelled_before_the_ring_is_closed_is_never_admitted(
    done: int,
) -> None:
    job = three_stages()
    live(job, [(requested(1), []), (requested(2), [])])
    live(job, TO_RUNNING[:done])
    live(job, [(cancelled(1), [])])
    live(job, TO_RUNNING[done:-1])
    live(job, [(StageConnected(stage=1), ["ready", "admit 2 #2"])])


def test_a_sequence_cancelled_before_the_first_stage_knows_it_is_not_admitted_there() -> None:
    job = three_stages()
    live(job, TO_RUNNING)
    live(
        job,
        [
            (requested(1), ["admit 2 #1"]),
            (cancelled(1), ["cancel 0 #1", "cancel 2 #1"]),
            (admitted(2, 1), []),
        ],
    )


def test_a_running_sequence_is_cancelled_at_both_ends_once() -> None:
    job = three_stages()
    live(job, TO_RUNNING)
    live(
        job,
        [
            (requested(1), ["admit 2 #1"]),
            (admitted(2, 1), ["admit 0 #1"]),
            (sampled(1, 40), ["emit #1 40"]),
            (cancelled(1), ["cancel 0 #1", "cancel 2 #1"]),
            (cancelled(1), []),
        ],
    )


def test_tokens_on_their_way_when_a_sequence_was_cancelled_are_not_shown() -> None:
    job = three_stages()
    live(job, TO_RUNNING)
    live(
        job,
        [
            (requested(1), ["admit 2 #1"]),
            (cancelled(1), ["cancel 0 #1", "cancel 2 #1"]),
            (sampled(1, 40), []),
            (sampled(1, 41, FinishReason.STOP), []),
        ],
    )


def test_a_sequence_that_nobody_asked_for_is_nobodys() -> None:
    job = three_stages()
    live(job, TO_RUNNING)
    live(job, [(admitted(2, 5), []), (sampled(5, 40), []), (cancelled(5), [])])
