"""A plan run by a schedule of the user's choice: depths, memory, sentence and prediction."""

from __future__ import annotations

from dataclasses import replace

import pytest
from on_paper import GIB, llama, machine, surveyed

from edgepipe.core.candidates import Candidate
from edgepipe.core.fit import Workload
from edgepipe.core.frame import Codec, DType
from edgepipe.core.outcome import play_by
from edgepipe.core.pinning import codecs_of, placed
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked, pose
from edgepipe.core.remedy import require_fit
from edgepipe.core.rescheduling import rescheduled, schedule_of
from edgepipe.core.schedule import ScheduleName
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.schedule_csv import to_csv
from edgepipe.core.setting import Setting
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode, Work
from edgepipe.errors import DoesNotFit

MODEL = llama(num_layers=4)
GPIPE, CLASSIC = Wish(name=ScheduleName.GPIPE), Wish(name=ScheduleName.ONE_F_ONE_B)
MICROBATCHES = 8


def asked(*devices: Candidate, codec: Codec | None = None) -> Asked:
    work = Work(
        objective=Objective.TRAIN,
        workload=Workload(dtype=DType.FLOAT32, num_slots=1, max_positions=128, prefill_chunk=128),
        batch=Batch(
            mode=TrainMode.LORA,
            sequences=MICROBATCHES,
            sequence_length=128,
            microbatches=MICROBATCHES,
            recompute=False,
        ),
    )
    nodes = list(dict.fromkeys(each.node for each in devices))
    return Asked.of(MODEL, surveyed(MODEL, devices), work, nodes=nodes, codec=codec)


def planned(of: Asked) -> Plan:
    found = plan(of, strategy=Strategy.EQUAL)
    assert found.feasible
    return found


ROOMY = asked(machine("ada"), machine("bob"), machine("cyd"))


def roomy_but_for_gpipe() -> Asked:
    """The first machine has room for all microbatches but one."""
    stage = rescheduled(planned(ROOMY), GPIPE).stages[0]
    limit = stage.memory_bytes - stage.inflight_bytes // MICROBATCHES
    return asked(machine("ada", limit=limit), machine("bob"), machine("cyd"))


def test_by_its_own_schedule_a_plan_stays_what_it_is() -> None:
    own = planned(ROOMY)
    assert rescheduled(own, Wish(), ROOMY) == own
    given = Wish(name="own.csv", given=schedule_of(own, Wish()))
    assert rescheduled(own, given) == own


def test_every_stage_has_the_schedules_microbatches_in_flight() -> None:
    own = planned(ROOMY)
    found = rescheduled(own, GPIPE, ROOMY)
    assert [stage.inflight for stage in found.stages] == [MICROBATCHES] * 3
    for before, after in zip(own.stages, found.stages, strict=True):
        each = before.inflight_bytes // before.inflight
        assert after.inflight_bytes == MICROBATCHES * each
        assert after.memory_bytes - before.memory_bytes == (MICROBATCHES - before.inflight) * each


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.INT8, Codec.INT4])
@pytest.mark.parametrize("wish", [GPIPE, CLASSIC], ids=["gpipe", "1f1b"])
def test_the_step_is_predicted_by_the_schedule_that_runs(wish: Wish, codec: Codec) -> None:
    posed = asked(machine("ada"), machine("bob"), machine("cyd"), codec=codec)
    found = rescheduled(planned(posed), wish, posed)
    case = pose(posed, Setting(objective=Objective.TRAIN, num_microbatches=MICROBATCHES))
    outcome, _ = play_by(posed, case, placed(posed, found), wish)
    assert found.predicted is not None
    assert found.predicted.step_s == pytest.approx(outcome.seconds)
    assert found.predicted.bubble == pytest.approx(outcome.bubble)
    assert [stage.predicted_busy for stage in found.stages] == list(outcome.simulation.busy_share)


@pytest.mark.parametrize("codec", [None, Codec.INT8, Codec.INT4])
def test_the_codecs_of_both_ways_are_read_back_from_the_stages(codec: Codec | None) -> None:
    """Over slow links, where auto takes one: the plan's own step takes what was planned."""
    near = asked(machine("ada"), machine("bob"), machine("cyd"), codec=codec)
    slow = tuple(replace(link, bytes_per_s=1e6) for link in near.survey.links)
    posed = replace(near, survey=replace(near.survey, links=slow))
    own = planned(posed)
    assert own.stages[0].codec_forward is (codec or Codec.INT8)
    setting = Setting(objective=Objective.TRAIN, num_microbatches=MICROBATCHES)
    placement = placed(posed, own)
    case = pose(posed, setting, codecs_of(posed, own, placement))
    depths = tuple(stage.inflight for stage in own.stages)
    outcome, _ = play_by(posed, case, placement, Wish(), depths)
    assert own.predicted is not None
    assert own.predicted.step_s == pytest.approx(outcome.seconds)


def test_without_what_it_was_made_from_nothing_is_predicted_of_another_schedule() -> None:
    found = rescheduled(planned(ROOMY), CLASSIC)
    assert found.feasible
    assert found.predicted is None


def test_a_schedule_that_takes_too_much_says_where_and_what_would_help() -> None:
    tight = roomy_but_for_gpipe()
    found = rescheduled(planned(tight), GPIPE, tight)
    assert not found.feasible
    (short,) = found.shortages
    assert (short.node, short.devices) == ("ada", ("cpu",))
    assert found.short_by_bytes == short.short_by_bytes > 0
    with pytest.raises(DoesNotFit) as caught:
        require_fit(found, schedule="gpipe")
    sentence = str(caught.value)
    assert "more on ada (cpu): " in sentence
    assert f"the schedule gpipe has {MICROBATCHES} microbatches in flight" in sentence
    assert 'schedule = "1f1b-k" in [plan] fits, and recompute = true' in sentence


def test_recomputation_that_is_on_already_is_no_remedy() -> None:
    tight = roomy_but_for_gpipe()
    found = replace(rescheduled(planned(tight), GPIPE, tight), recompute=True)
    with pytest.raises(DoesNotFit, match=r"fits$"):
        require_fit(found, schedule="gpipe")


def test_devices_of_one_pool_lack_memory_together() -> None:
    """Each alone has room, the memory that they share has not."""
    ample = asked(machine("ada", "cuda:0"), machine("ada", "cuda:1"), machine("bob"))
    before, after = planned(ample).stages, rescheduled(planned(ample), GPIPE).stages
    between = [sum(each.memory_bytes for each in stages[:2]) for stages in (before, after)]
    limit = sum(between) // 2
    assert all(stage.memory_bytes < limit for stage in after)
    shared = asked(
        machine("ada", "cuda:0", limit=limit, pool="one"),
        machine("ada", "cuda:1", limit=limit, pool="one"),
        machine("bob", limit=64 * GIB),
    )
    found = rescheduled(planned(shared), GPIPE)
    (short,) = found.shortages
    assert short.devices == ("cuda:0", "cuda:1")


def test_a_list_of_actions_has_its_own_depths() -> None:
    own = planned(ROOMY)
    text = to_csv(schedule_of(own, CLASSIC))
    found = rescheduled(own, Wish.of_csv("own.csv", text))
    assert [stage.inflight for stage in found.stages] == [3, 2, 1]
