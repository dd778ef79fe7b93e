"""Training runners on real links and threads, with engines that compute nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgepipe.agent.train_runner import Ids
from edgepipe.core.frame import Codec
from edgepipe.core.schedule import Schedule, gpipe, one_f_one_b, one_f_one_b_k
from edgepipe.core.training import IGNORED, Microbatch, Purpose
from edgepipe.engine.training import Forwarded
from edgepipe.errors import WireError
from tests.agent.one_process_pipeline import (
    HIDDEN,
    ROWS,
    VOCABULARY,
    Recording,
    ids_of,
    order,
    recording,
    running_pipeline,
)


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.INT8])
@pytest.mark.parametrize(
    "schedule",
    [one_f_one_b_k(1, 3, (1,)), gpipe(3, 4), one_f_one_b(3, 4), one_f_one_b_k(3, 4, (4, 2, 1))],
    ids=["one stage", "gpipe", "1f1b", "1f1b-k"],
)
async def test_every_stage_runs_its_list_and_applies(schedule: Schedule, codec: Codec) -> None:
    engines = recording(schedule.num_stages)
    async with running_pipeline(engines, schedule) as pipeline:
        for number in (1, 2):
            pipeline.give(number, schedule, codec=codec)
            ready = await pipeline.ready(number)
            pipeline.decide(number)
            await pipeline.applied(number)
    for stage, (engine, report) in enumerate(zip(engines, ready, strict=True)):
        once = [f"{action.kind}{action.microbatch}" for action in schedule.stages[stage]]
        assert engine.done == [*once, "apply", *once, "apply"]
        assert report.inflight == schedule.inflight(stage)
    losses = [float(ids_of(2, index).sum()) for index in range(schedule.num_microbatches)]
    assert ready[-1].loss_sums == tuple(losses)


async def test_bytes_are_those_of_the_payloads() -> None:
    schedule = one_f_one_b(2, 3)
    async with running_pipeline(recording(2), schedule) as pipeline:
        pipeline.give(1, schedule)
        first, last = await pipeline.ready(1)
    payload = ROWS * HIDDEN * 4
    assert (first.sent_bytes, first.returned_bytes) == (3 * payload, 0)
    assert (last.sent_bytes, last.returned_bytes) == (0, 3 * payload)


async def test_orders_may_be_given_ahead_and_at_different_times() -> None:
    schedule = one_f_one_b(3, 2)
    engines = recording(3)
    async with running_pipeline(engines, schedule) as pipeline:
        pipeline.give(1, schedule)
        pipeline.give(2, schedule, stages=[0])
        await pipeline.ready(1)
        pipeline.decide(1)
        await pipeline.applied(1)
        pipeline.give(2, schedule, stages=[2])
        pipeline.give(2, schedule, stages=[1])
        await pipeline.ready(2)
    assert [engine.done.count("F0") for engine in engines] == [2, 2, 2]


async def test_an_evaluation_has_no_backwards_and_no_decision() -> None:
    schedule = gpipe(3, 8)
    engines = recording(3)
    async with running_pipeline(engines, one_f_one_b(3, 2)) as pipeline:
        for number in (1, 2, 3):
            pipeline.give(number, schedule.first(2), purpose=Purpose.EVALUATE)
        for number in (1, 2, 3):
            await pipeline.ready(number)
    assert all(engine.done == ["F0", "F1"] * 3 for engine in engines)


async def test_a_rehearsal_has_backwards_and_no_decision() -> None:
    class Compared(Recording):
        def rehearse(self) -> float:
            self.done.append("rehearse")
            return 2.5

    schedule = one_f_one_b(2, 1)
    engines = [Compared(embedding=stage == 0, head=stage == 1) for stage in range(2)]
    async with running_pipeline(engines, schedule) as pipeline:
        for number in (1, 2):
            pipeline.give(number, schedule, purpose=Purpose.REHEARSE)
            ready = await pipeline.ready(number)
    assert all(engine.done == ["F0", "B0", "rehearse"] * 2 for engine in engines)
    assert [report.dot for report in ready] == [2.5, 2.5]


async def test_nothing_is_applied_until_what_was_trained_was_read() -> None:
    schedule = one_f_one_b(2, 1)
    engines = recording(2)
    async with running_pipeline(engines, schedule) as pipeline:
        pipeline.give(1, schedule)
        pipeline.give(2, schedule)
        await pipeline.ready(1)
        pipeline.decide(1, export=True)
        await pipeline.applied(1)
        await pipeline.ready(2)
        pipeline.decide(2)
        pipeline.runners[1].let_go()
        await pipeline.runners[0].kept()
        assert engines[0].done == ["F0", "B0", "apply", "F0", "B0"]
        pipeline.runners[0].let_go()
        await pipeline.applied(2)
    assert engines[0].done[-1] == "apply"


class Tied(Recording):
    """One end of a tied embedding: rows are made of their ids."""

    def __init__(self, *, embedding: bool, head: bool) -> None:
        super().__init__(embedding=embedding, head=head)
        self.rows: dict[str, list[int]] = {}

    def embedding_rows(self, ids: torch.Tensor) -> torch.Tensor:
        self.rows["given"] = ids.tolist()
        return ids[:, None].expand(-1, HIDDEN).float()

    def set_embedding_rows(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        assert torch.equal(rows, ids[:, None].expand(-1, HIDDEN).float())
        self.rows["taken"] = ids.tolist()
        self.done.append("rows")

    def embedding_gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor(self.rows["taken"])
        return ids, 2 * ids[:, None].expand(-1, HIDDEN).float()

    def add_embedding_gradient(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        assert torch.equal(rows, 2 * ids[:, None].expand(-1, HIDDEN).float())
        self.rows["added"] = ids.tolist()
        self.done.append("gradient")


async def test_a_tied_embedding_is_exchanged_row_by_row() -> None:
    schedule = one_f_one_b(2, 2)
    first, last = Tied(embedding=True, head=False), Tied(embedding=False, head=True)
    async with running_pipeline([first, last], schedule, exchanges=True) as pipeline:
        for number in (1, 2):
            pipeline.give(number, schedule)
            await pipeline.ready(number)
            pipeline.decide(number)
            await pipeline.applied(number)
    seen = sorted({int(each) for index in range(2) for each in ids_of(2, index)})
    assert first.rows["taken"] == last.rows["given"] == last.rows["added"] == seen
    assert first.done[0] == "rows"
    assert last.done[-2:] == ["gradient", "apply"]


async def test_a_frame_of_other_rows_than_the_order_says_ends_the_stage() -> None:
    class Wrong(Recording):
        def forward(self, microbatch: Microbatch, inputs: torch.Tensor, **rest: Any) -> Forwarded:
            return super().forward(microbatch, inputs[:-1], **rest)

    schedule = one_f_one_b(2, 1)
    engines = [Wrong(embedding=True, head=False), Recording(embedding=False, head=True)]
    with pytest.RaisesGroup(WireError):
        async with running_pipeline(engines, schedule) as pipeline:
            pipeline.give(1, schedule)
            await pipeline.ready(1)


@pytest.mark.parametrize("target", [-1, IGNORED - 1, VOCABULARY])
async def test_a_target_is_a_token_or_to_be_ignored(target: int) -> None:
    """However few tokens there are."""
    schedule = one_f_one_b(1, 1)
    targets = np.full(ROWS, IGNORED, np.int32)
    async with running_pipeline(recording(1), schedule) as pipeline:
        (runner,) = pipeline.runners
        runner.give(order(1, schedule, 0, purpose=Purpose.TRAIN, codec=Codec.NONE))
        with pytest.raises(WireError, match="the targets of microbatch 0 do not fit"):
            runner.give_ids(1, 0, Ids(targets=np.append(targets[1:], np.int32(target))))
        runner.give_ids(1, 0, Ids(targets=targets))
