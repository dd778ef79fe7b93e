"""Which codec a link takes, and where a less lossy one does as well."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from drawn_surveys import drawn
from on_paper import llama, machine, surveyed

from edgepipe.core.choosing import cases_of
from edgepipe.core.compression import (
    LOSSY_ORDER,
    Rows,
    compress,
    gradient_codec,
    gradient_codecs,
    less_lossy,
)
from edgepipe.core.frame import Codec, DType
from edgepipe.core.outcome import Outcome, play, refine
from edgepipe.core.payload import payload_bytes
from edgepipe.core.placing import proportional
from edgepipe.core.speed import CodecSpeed, DeviceSpeed
from edgepipe.core.survey import Survey
from edgepipe.core.work import Objective

SMOL = llama()
ROWS = Rows(num_rows=128, hidden_size=576, dtype=DType.FLOAT32)


def home(bytes_per_s: float, *, encode_call_s: float = 0.0, latency_s: float = 1e-4) -> Survey:
    """Devices on desk (two) and attic, linked at so many bytes per second."""
    devices = (machine("desk", "cuda:0"), machine("desk", "cuda:1"), machine("attic"))
    survey = surveyed(SMOL, devices)
    codecs = {
        codec: CodecSpeed(encode_s=0, decode_s=0, encode_call_s=encode_call_s)
        for codec in LOSSY_ORDER[1:]
    }
    return replace(
        survey,
        speeds=tuple(DeviceSpeed(items=each.items, codecs=codecs) for each in survey.speeds),
        links=tuple(
            replace(link, bytes_per_s=bytes_per_s, latency_s=latency_s) for link in survey.links
        ),
    )


def chosen(survey: Survey, rows: Rows = ROWS) -> Codec:
    return compress(survey, rows, None).codecs[0][2]


def test_a_slow_link_takes_what_gets_a_frame_across_soonest() -> None:
    assert chosen(home(1e6)) is Codec.INT8


def test_a_codec_that_takes_longer_than_it_saves_is_not_taken() -> None:
    frame_s = ROWS.encoded_bytes(Codec.NONE) / 1e6
    assert chosen(home(1e6, encode_call_s=frame_s)) is Codec.NONE


def test_where_nothing_is_saved_the_least_lossy_is_taken() -> None:
    halves = replace(ROWS, dtype=DType.BFLOAT16)
    assert chosen(home(1e6), halves) is Codec.INT8
    assert chosen(home(1e15), halves) is Codec.NONE
    assert chosen(home(1e6, latency_s=100.0)) is Codec.NONE


def test_a_lossier_codec_must_save_a_twentieth() -> None:
    whole_s = ROWS.encoded_bytes(Codec.NONE) / 1e9
    saved_s = whole_s - ROWS.encoded_bytes(Codec.INT8) / 1e9
    barely, amply = 0.051, 0.049
    for share, codec in ((barely, Codec.INT8), (amply, Codec.NONE)):
        survey = home(1e9, latency_s=saved_s / share - whole_s)
        survey = replace(
            survey,
            speeds=tuple(
                DeviceSpeed(
                    items=each.items,
                    codecs={
                        Codec.BF16: CodecSpeed(encode_s=1, decode_s=1),
                        Codec.INT8: CodecSpeed(encode_s=0, decode_s=0),
                    },
                )
                for each in survey.speeds
            ),
        )
        assert chosen(survey) is codec


def test_on_one_machine_none() -> None:
    codecs = compress(home(1.0), ROWS, None).codecs
    assert codecs[0][1] is codecs[1][0] is Codec.NONE


@pytest.mark.parametrize("codec", Codec)
def test_the_users_codec_is_taken_everywhere(codec: Codec) -> None:
    assert {each for row in compress(home(1e6), ROWS, codec).codecs for each in row} == {codec}


def test_a_codec_leaves_a_share_of_the_bytes_and_takes_both_ends_time() -> None:
    found = compress(home(1e6, encode_call_s=2e-3), ROWS, Codec.INT8)
    shape = (ROWS.num_rows, ROWS.hidden_size)
    whole, encoded = (
        payload_bytes(codec, shape, DType.FLOAT32) for codec in (Codec.NONE, Codec.INT8)
    )
    assert found.share[0, 2] == pytest.approx(encoded / whole)
    assert found.seconds[0, 2] == pytest.approx(2e-3)


def test_less_lossy_codecs_begin_with_none() -> None:
    assert less_lossy(Codec.INT8) == (Codec.NONE, Codec.BF16)
    assert less_lossy(Codec.INT4) == (Codec.NONE, Codec.BF16, Codec.INT8)
    assert less_lossy(Codec.NONE) == ()


@pytest.mark.parametrize("bytes_per_s", [1.0, 1e3, 1e6, 1e9])
def test_int4_is_never_chosen_though_it_took_no_time(bytes_per_s: float) -> None:
    survey = home(bytes_per_s)
    codecs = {codec for row in compress(survey, ROWS, None).codecs for codec in row}
    assert Codec.INT4 in survey.speeds[0].codecs
    assert Codec.INT4 not in codecs


def test_gradients_travel_as_activations_do_but_never_as_int4() -> None:
    assert {codec: gradient_codec(codec) for codec in Codec} == {
        Codec.NONE: Codec.NONE,
        Codec.BF16: Codec.BF16,
        Codec.INT8: Codec.INT8,
        Codec.INT4: Codec.INT8,
    }
    table = ((Codec.NONE, Codec.INT4), (Codec.INT4, Codec.BF16))
    assert gradient_codecs(table) == ((Codec.NONE, Codec.INT8), (Codec.INT8, Codec.BF16))


def played(seed: int, objective: Objective, *, free: bool = True) -> Outcome:
    asked = drawn(seed, objective, tight=False, free=free)
    case = cases_of(asked)[0]
    devices = case.problem.order or tuple(range(min(len(asked.survey.devices), 3)))
    return play(asked, case, proportional(case.problem, devices))


def lossiness(outcome: Outcome) -> list[int]:
    devices = [stage.device for stage in outcome.placement]
    return [LOSSY_ORDER.index(outcome.case.codecs[a][b]) for a, b in pairwise(devices)]


@pytest.mark.parametrize("objective", Objective)
def test_refining_costs_half_a_percent_in_all_and_loses_no_more(objective: Objective) -> None:
    stepped_down = 0
    for seed in range(10):
        before = played(seed, objective)
        after = refine(drawn(seed, objective, tight=False, free=True), before)
        assert after.seconds <= before.seconds * 1.005 * (1 + 1e-12), seed
        pairs = list(zip(lossiness(before), lossiness(after), strict=True))
        assert all(now <= was for was, now in pairs), seed
        stepped_down += sum(now < was for was, now in pairs)
    assert stepped_down or objective is Objective.LATENCY


def test_in_training_each_direction_of_a_boundary_steps_down_for_itself() -> None:
    apart = 0
    for seed in range(20):
        before = played(seed, Objective.TRAIN)
        refined = refine(drawn(seed, Objective.TRAIN, tight=False, free=True), before)
        assert refined.case.backward is not None
        assert refined.case.backward.codecs == refined.case.codecs
        for one, other in pairwise([stage.device for stage in refined.placement]):
            was, now = before.case.codecs[other][one], refined.case.codecs[other][one]
            assert LOSSY_ORDER.index(now) <= LOSSY_ORDER.index(was)
            apart += now is not refined.case.codecs[one][other]
    assert apart


def test_a_codec_that_the_user_named_stays() -> None:
    asked = replace(drawn(3, Objective.LATENCY, tight=False, free=True), codec=Codec.INT8)
    case = cases_of(asked)[0]
    best = play(asked, case, proportional(case.problem, (0, 1)))
    assert refine(asked, best) is best


@pytest.mark.parametrize("objective", [each for each in Objective if each is not Objective.TRAIN])
def test_the_users_int4_is_what_answers_are_planned_with(objective: Objective) -> None:
    asked = replace(drawn(3, objective, tight=False, free=True), codec=Codec.INT4)
    case = cases_of(asked)[0]
    assert {codec for row in case.codecs for codec in row} == {Codec.INT4}
    assert case.backward is None


def test_in_training_the_users_int4_is_for_activations_and_gradients_are_int8() -> None:
    asked = replace(drawn(3, Objective.TRAIN, tight=False, free=True), codec=Codec.INT4)
    case = cases_of(asked)[0]
    assert case.backward is not None
    assert {codec for row in case.backward.codecs for codec in row} == {Codec.INT8}
    assert {codec for row in case.codecs for codec in row} == {Codec.INT4}
    problem = case.problem
    as_int8 = cases_of(replace(asked, codec=Codec.INT8))[0].problem
    assert (problem.frame_bytes < as_int8.frame_bytes).all()
    assert (problem.gradient_bytes == as_int8.gradient_bytes).all()
    assert (problem.link_latency_s == as_int8.link_latency_s).all(), "the slower of both"
    best = play(asked, case, proportional(case.problem, (0, 1)))
    assert refine(asked, best) is best
