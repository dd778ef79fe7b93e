"""The simulation equals the closed forms where they are exact, and keeps their bounds elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from drawn_networks import Training, any_problem, any_training, going_nowhere, on
from drawn_schedules import PICTURED, any_depths
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.core.costs import BottleneckKind, cost
from edgepipe.core.goal import Latency, Prefill, Throughput
from edgepipe.core.hop import Frame
from edgepipe.core.problem import Device, Nic, Placement, Problem, Stage, Traffic
from edgepipe.core.ring import Ring
from edgepipe.core.schedule import Action, Schedule, backward, gpipe, one_f_one_b
from edgepipe.core.schedule_picture import picture
from edgepipe.core.simulate import Boundary, decode, infer, prefill, train
from edgepipe.core.timeline import Timeline

few = settings(max_examples=40, deadline=None)

Drawn = tuple[Problem, Placement]
STREAM, ALONE = Latency(), Throughput(num_groups=1, group_size=1)


def near(seconds: float) -> object:
    return pytest.approx(seconds, rel=1e-9, abs=1e-9)


def unless_less(seconds: float) -> float:
    """A lower bound, but for rounding."""
    return seconds * (1 - 1e-9) - 1e-9


def slowest_hop(drawn: Drawn, *, back: bool) -> float:
    ring = Ring.of(*drawn)
    return max([hop.seconds for hop in (*ring.hops, *([ring.back] if back else []))], default=0.0)


@few
@given(any_problem(STREAM, shares=False))
def test_a_stream_takes_one_turn_of_the_ring_per_token(drawn: Drawn) -> None:
    assert infer(*drawn).seconds == near(cost(*drawn).total_s)


@few
@given(any_problem(STREAM, shares=True))
def test_a_stream_is_slower_only_where_a_nic_is_slower_than_its_link(drawn: Drawn) -> None:
    ring, stated = Ring.of(*drawn), cost(*drawn)
    hops = [*ring.hops, ring.back]
    total = sum(ring.stage_s) + sum(hop.seconds + hop.latency_s for hop in hops)
    assert infer(*drawn).seconds == near(total)
    assert total >= unless_less(stated.total_s)


@few
@given(any_problem(ALONE, shares=False), st.integers(1, 6))
def test_groups_come_home_at_the_pace_of_the_slowest_or_of_the_ring(
    drawn: Drawn, num_groups: int
) -> None:
    problem = replace(drawn[0], goal=Throughput(num_groups=num_groups, group_size=3))
    seconds, stated = infer(problem, drawn[1]).seconds, cost(problem, drawn[1])
    assert seconds == near(max(stated.seconds, slowest_hop(drawn, back=True)))
    if slowest_hop(drawn, back=True) <= stated.bottleneck.seconds:
        assert seconds == near(stated.seconds)


@few
@given(any_problem(ALONE, shares=True), st.integers(1, 6))
def test_groups_are_never_faster_than_the_stated_cost(drawn: Drawn, num_groups: int) -> None:
    problem = replace(drawn[0], goal=Throughput(num_groups=num_groups, group_size=1))
    assert infer(problem, drawn[1]).seconds >= unless_less(cost(problem, drawn[1]).seconds)


@few
@given(
    any_problem(STREAM, shares=False).map(lambda drawn: (going_nowhere(drawn[0]), drawn[1])),
    st.integers(1, 8),
)
def test_a_prompt_takes_its_first_chunk_and_the_slowest_for_each_other(
    drawn: Drawn, num_chunks: int
) -> None:
    problem = replace(drawn[0], goal=Prefill(num_chunks=num_chunks))
    seconds, stated = infer(problem, drawn[1]).seconds, cost(problem, drawn[1])
    busiest = max(*stated.stage_s, slowest_hop(drawn, back=False))
    assert seconds == near(stated.total_s + (num_chunks - 1) * busiest)
    if busiest == stated.bottleneck.seconds:
        assert seconds == near(stated.seconds)


@few
@given(
    any_problem(STREAM, shares=True).map(lambda drawn: (going_nowhere(drawn[0]), drawn[1])),
    st.integers(1, 8),
)
def test_a_prompt_is_never_faster_than_its_bounds(drawn: Drawn, num_chunks: int) -> None:
    seconds, stated = prefill(*drawn, num_chunks=num_chunks).seconds, cost(*drawn)
    assert seconds >= unless_less(stated.total_s)
    assert seconds >= unless_less(num_chunks * stated.bottleneck.seconds)


def drawn_as_picture(run: Timeline[Action]) -> str:
    """A timeline whose actions take a second each, as `picture` draws it."""
    slots = round(run.end_s)
    rows = [["", *map(str, range(slots))]]
    for stage, spans in enumerate(run.stages):
        cells = ["."] * slots
        for span in spans:
            assert span.end_s - span.begin_s == 1
            cells[int(span.begin_s)] = str(span.action).removeprefix(str(stage))
        rows.append([f"stage {stage}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [" ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "".join(f"{row}\n" for row in padded)


@pytest.mark.parametrize(("name", "schedule"), PICTURED.items())
def test_unit_times_give_the_pictures(
    name: str, schedule: Schedule, golden: Callable[[str, str], None]
) -> None:
    run = on(schedule, forward_s=1.0, backward_s=1.0).run()
    golden(f"schedules/{name}", drawn_as_picture(run.timeline))


@few
@given(any_depths())
def test_unit_times_give_every_picture(schedule: Schedule) -> None:
    run = on(schedule, forward_s=1.0, backward_s=1.0).run()
    assert drawn_as_picture(run.timeline) == picture(schedule)


@few
@given(num_stages=st.integers(1, 6), extra=st.integers(0, 6))
def test_1f1b_over_equal_stages_has_the_bubble_of_the_papers(num_stages: int, extra: int) -> None:
    num = num_stages + extra
    run = on(one_f_one_b(num_stages, num), forward_s=1.0, backward_s=2.0).run()
    assert run.seconds == 3.0 * (num + num_stages - 1)
    assert run.bubble == near_each((num_stages - 1) / (num + num_stages - 1), num_stages)


def near_each(share: float, num_stages: int) -> object:
    return pytest.approx([share] * num_stages)


def longest_path_s(training: Training) -> float:
    """The step's time where only links carry frames, by recursion over what came before."""
    schedule, stages, boundaries = training.schedule, training.stages, training.boundaries
    last = schedule.num_stages - 1

    @cache
    def end(stage: int, at: int) -> float:
        if at < 0:
            return 0.0
        action, begin = schedule.stages[stage][at], end(stage, at - 1)
        is_forward, cost_s = action.kind == "F", stages[stage]
        sender = stage - 1 if is_forward else stage + 1
        if 0 <= sender <= last:
            begin = max(
                begin,
                left(sender, is_forward, place(sender, action))
                + late(min(stage, sender), is_forward),
            )
        return begin + (cost_s.forward_s if is_forward else cost_s.backward_s)

    def place(sender: int, action: Action) -> int:
        return schedule.stages[sender].index(replace(action, stage=sender))

    def frame(boundary: int, is_down: bool) -> Frame:
        return boundaries[boundary].down if is_down else boundaries[boundary].up

    def late(boundary: int, is_down: bool) -> float:
        return frame(boundary, is_down).latency_s

    @cache
    def left(sender: int, is_down: bool, at: int) -> float:
        if at < 0:
            return 0.0
        before = left(sender, is_down, at - 1)
        if (schedule.stages[sender][at].kind == "F") is not is_down:
            return before
        sent = frame(sender if is_down else sender - 1, is_down)
        return max(before, end(sender, at)) + sent.num_bytes / sent.bytes_per_s

    return max(end(stage, len(actions) - 1) for stage, actions in enumerate(schedule.stages))


@few
@given(any_training(shares=False))
def test_over_links_alone_a_step_is_its_longest_path(training: Training) -> None:
    assert training.run().seconds == near(longest_path_s(training))


@few
@given(any_training(shares=True))
def test_a_step_is_never_faster_than_its_bottleneck(training: Training) -> None:
    step, num = training.run(), training.schedule.num_microbatches
    assert step.seconds >= unless_less(num * step.bottleneck.seconds)
    assert step.seconds >= unless_less(longest_path_s(replace(training, nics={})))


@few
@given(any_training(shares=True))
def test_busy_and_bottleneck_are_what_the_timeline_shows(training: Training) -> None:
    step, num = training.run(), training.schedule.num_microbatches
    busy = [sum(span.end_s - span.begin_s for span in spans) for spans in step.timeline.stages]
    if step.seconds:
        assert step.busy_share == pytest.approx([each / step.seconds for each in busy])
    held: dict[str, float] = {}
    for transfer in step.timeline.transfers:
        for name, seconds in transfer.hop.occupied.items():
            held[name] = held.get(name, 0.0) + seconds
    most = max([*busy, *held.values()])
    assert num * step.bottleneck.seconds == near(most)
    if step.bottleneck.kind is BottleneckKind.LINK:
        assert held[step.bottleneck.where] == near(most)
    else:
        names = [stage.place.name for stage in training.stages]
        assert busy[names.index(step.bottleneck.where)] == near(most)


@few
@given(any_training(shares=False), st.data())
def test_over_links_alone_nothing_slower_makes_a_step_faster(
    training: Training, data: st.DataObject
) -> None:
    stages, boundaries = list(training.stages), list(training.boundaries)
    at = data.draw(st.integers(0, len(stages) - 1))
    stages[at] = replace(stages[at], backward_s=stages[at].backward_s + 1)
    if at:
        up = boundaries[at - 1].up
        slower = replace(up, num_bytes=2 * up.num_bytes, latency_s=up.latency_s + 0.1)
        boundaries[at - 1] = replace(boundaries[at - 1], up=slower)
    slowed = replace(training, stages=stages, boundaries=boundaries)
    assert slowed.run().seconds >= unless_less(training.run().seconds)


@few
@given(any_problem(ALONE, shares=False), st.integers(1, 4), st.floats(1, 3))
def test_over_unshared_links_slower_devices_decode_no_faster(
    drawn: Drawn, num_groups: int, times: float
) -> None:
    problem, placement = drawn
    slower = replace(problem, item_s=problem.item_s * times)
    before = decode(problem, placement, num_groups=num_groups).seconds
    assert decode(slower, placement, num_groups=num_groups).seconds >= unless_less(before)


def two_on_wifi() -> Training:
    """Frames that take a stage's second on the air, both ways over one medium."""
    training = on(gpipe(2, 8), forward_s=1.0, backward_s=1.0)
    frame = Frame(num_bytes=4, bytes_per_s=4.0, latency_s=0.0)
    station = Nic(send_bytes_per_s=2.0, receive_bytes_per_s=4.0, medium="wifi")
    return replace(
        training,
        boundaries=[Boundary(down=frame, up=frame)],
        nics={"h0": station, "h1": station},
    )


def test_a_medium_that_both_directions_share_is_the_bottleneck() -> None:
    step = two_on_wifi().run()
    assert (step.bottleneck.kind, step.bottleneck.where) == (BottleneckKind.LINK, "medium wifi")
    assert step.bottleneck.seconds == 6.0
    assert step.seconds > replace(two_on_wifi(), nics={}).run().seconds


def test_frames_of_two_stages_share_the_nic_of_their_host() -> None:
    training = on(gpipe(3, 4), forward_s=1.0, backward_s=1.0)
    stages = [
        replace(stage, place=replace(stage.place, host=host))
        for stage, host in zip(training.stages, ("desk", "attic", "desk"), strict=True)
    ]
    frame = Frame(num_bytes=4, bytes_per_s=4.0, latency_s=0.0)
    nics = {"desk": Nic(send_bytes_per_s=4.0, receive_bytes_per_s=4.0)}
    boundaries = [Boundary(down=frame, up=frame)] * 2
    apart = train(training.schedule, stages, boundaries, {}).seconds
    assert train(training.schedule, stages, boundaries, nics).seconds >= apart


def test_a_step_of_nothing_is_never_busy() -> None:
    step = on(gpipe(2, 2), forward_s=0.0, backward_s=0.0).run()
    assert (step.seconds, step.busy_share) == (0.0, (0.0, 0.0))


@few
@given(any_training(shares=True))
def test_what_a_stage_holds_is_what_the_schedule_says(training: Training) -> None:
    run = training.run().timeline
    for stage, spans in enumerate(run.stages):
        ends = {span.action: span.end_s for span in spans}
        first = [span for span in spans if span.action.kind == "F"]
        held = [
            sum(
                other.end_s <= now.end_s < ends[backward(stage, other.action.microbatch)]
                for other in first
            )
            for now in first
        ]
        assert max(held) <= training.schedule.inflight(stage)


def test_a_ring_of_one_device_is_as_fast_as_the_device() -> None:
    problem, placement = one_device()
    assert decode(problem, placement, num_groups=3).seconds == pytest.approx(3.0)
    assert prefill(problem, placement, num_chunks=4).seconds == pytest.approx(12.0)


def one_device() -> Drawn:
    device = Device(
        node="n", device="cpu", host="h", pool="ram", memory_limit_bytes=1, baseline_bytes=0
    )
    problem = Problem(
        devices=(device,),
        item_s=np.array([[1.0, 1.0, 1.0]]),
        stage_bytes=np.zeros((2, 2), dtype=np.int64),
        link_bytes_per_s=np.ones((1, 1)),
        link_latency_s=np.ones((1, 1)),
        traffic=Traffic(frame_bytes=1, return_bytes=1),
        goal=STREAM,
    )
    return problem, (Stage(device=0, first=0, end=1),)
